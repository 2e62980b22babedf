// A gRPC service behind Sallyport: go run ./examples/server. SALLYPORT is the address of the data listener; CACHE is off
// or feed. TENANT, if it is set, is the one in which the token of an order must be live.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"os/signal"
	"syscall"

	sallyport "sallyport/client"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

func main() {
	validator, err := sallyport.NewGrpcValidator(os.Getenv("SALLYPORT"), sallyport.GrpcOptions{
		Dial: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())},
	})
	fatal(err)
	checker := sallyport.NewChecker(sallyport.Options{Validator: validator, Feed: os.Getenv("CACHE") == "feed"})
	auth := &sallyport.Auth{
		Checker: checker,
		Requirements: sallyport.Requirements{
			"shop.v1.Orders/Get": {Scopes: []string{"orders.read"}, Tenant: os.Getenv("TENANT")},
		},
	}
	fatal(auth.Requirements.Check())
	server := grpc.NewServer(grpc.UnaryInterceptor(auth.Unary()), grpc.StreamInterceptor(auth.Stream()))
	server.RegisterService(&orders, nil)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	fatal(err)
	fmt.Printf("{\"port\":%d}\n", listener.Addr().(*net.TCPAddr).Port)
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM)
	go func() {
		<-stop
		server.Stop()
	}()
	fatal(server.Serve(listener))
	fatal(checker.Close())
}

// orders is a service of two methods; yours comes from protoc-gen-go-grpc.
var orders = grpc.ServiceDesc{
	ServiceName: "shop.v1.Orders",
	HandlerType: (*any)(nil),
	Methods: []grpc.MethodDesc{{
		MethodName: "Get",
		Handler: func(_ any, ctx context.Context, decode func(any) error, through grpc.UnaryServerInterceptor) (any, error) {
			request := new(wrapperspb.StringValue)
			if err := decode(request); err != nil {
				return nil, err
			}
			handler := func(ctx context.Context, request any) (any, error) {
				order := request.(*wrapperspb.StringValue).GetValue()
				return wrapperspb.String("order " + order + " for " + sallyport.IdentityOf(ctx).Principal), nil
			}
			return through(ctx, request, &grpc.UnaryServerInfo{FullMethod: "/shop.v1.Orders/Get"}, handler)
		},
	}},
	Streams: []grpc.StreamDesc{{
		StreamName:    "Talk",
		ServerStreams: true,
		ClientStreams: true,
		Handler: func(_ any, stream grpc.ServerStream) error {
			for {
				message := new(wrapperspb.StringValue)
				if err := stream.RecvMsg(message); errors.Is(err, io.EOF) {
					return nil
				} else if err != nil {
					return err
				}
				if err := stream.SendMsg(message); err != nil {
					return err
				}
			}
		},
	}},
}

func fatal(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
