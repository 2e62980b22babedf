// Asks the service for an order: client PORT FILE, with a file that holds a token string.
package main

import (
	"context"
	"fmt"
	"log"
	"os"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func main() {
	if len(os.Args) != 3 {
		log.Fatal("usage: client PORT FILE")
	}
	token, err := os.ReadFile(os.Args[2])
	fatal(err)
	conn, err := grpc.NewClient("127.0.0.1:"+os.Args[1], grpc.WithTransportCredentials(insecure.NewCredentials()))
	fatal(err)
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	ctx = metadata.AppendToOutgoingContext(ctx, "authorization", "Bearer "+strings.TrimSpace(string(token)))
	order, trailer := new(wrapperspb.StringValue), metadata.MD{}
	if err := conn.Invoke(ctx, "/shop.v1.Orders/Get", wrapperspb.String("7"), order, grpc.Trailer(&trailer)); err != nil {
		fmt.Println(status.Code(err), strings.Join(trailer.Get("sallyport-verdict"), " "))
		return
	}
	fmt.Println(order.GetValue())
}

func fatal(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
