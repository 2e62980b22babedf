// An echo service for the tests of the client. SALLYPORT is the address of the data listener; CACHE is off or feed. It
// prints its port, ends with its input, and then prints how often it left the feed.
package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log"
	"net"
	"os"
	"sync"
	"time"

	sallyport "sallyport/client"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/wrapperspb"
)

// counts says how often each tier, verdict and state was reported by the hooks.
type counts struct {
	mutex sync.Mutex
	seen  map[string]int
}

func (c *counts) add(what ...string) {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	for _, one := range what {
		c.seen[one]++
	}
}

func (c *counts) of(what string) int {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	return c.seen[what]
}

func (c *counts) text() string {
	c.mutex.Lock()
	defer c.mutex.Unlock()
	text, err := json.Marshal(c.seen)
	fatal(err)
	return string(text)
}

func main() {
	seen := &counts{seen: map[string]int{}}
	validator, err := sallyport.NewGrpcValidator(os.Getenv("SALLYPORT"), sallyport.GrpcOptions{
		Dial: []grpc.DialOption{grpc.WithTransportCredentials(insecure.NewCredentials())},
	})
	fatal(err)
	checker := sallyport.NewChecker(sallyport.Options{
		Validator: validator,
		Feed:      os.Getenv("CACHE") == "feed",
		Hooks: sallyport.Hooks{
			Checked: func(verdict sallyport.Verdict, tier string, _ time.Duration) {
				seen.add(tier, tier+" "+string(verdict))
			},
			Feed: func(state string) { seen.add(state) },
		},
	})
	auth := &sallyport.Auth{
		Checker: checker,
		Requirements: sallyport.Requirements{
			"test.v1.Echo/Read": {Scopes: []string{"history:read"}},
			"test.v1.Echo/Seen": {Public: true},
		},
	}
	fatal(auth.Requirements.Check())
	say := func(ctx context.Context, text string) string {
		answer, err := json.Marshal([]string{text, sallyport.IdentityOf(ctx).Principal})
		fatal(err)
		return string(answer)
	}
	server := grpc.NewServer(grpc.UnaryInterceptor(auth.Unary()), grpc.StreamInterceptor(auth.Stream()))
	server.RegisterService(&grpc.ServiceDesc{
		ServiceName: "test.v1.Echo",
		HandlerType: (*any)(nil),
		Methods: []grpc.MethodDesc{
			method("Say", say),
			method("Read", say),
			method("Seen", func(context.Context, string) string { return seen.text() }),
		},
	}, nil)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	fatal(err)
	fmt.Printf("{\"port\":%d}\n", listener.Addr().(*net.TCPAddr).Port)
	go func() {
		_, _ = io.Copy(io.Discard, os.Stdin)
		server.Stop()
	}()
	fatal(server.Serve(listener))
	fatal(checker.Close())
	fmt.Printf("{\"left\":%d}\n", seen.of("left"))
}

func method(name string, answer func(context.Context, string) string) grpc.MethodDesc {
	return grpc.MethodDesc{
		MethodName: name,
		Handler: func(_ any, ctx context.Context, decode func(any) error, through grpc.UnaryServerInterceptor) (any, error) {
			request := new(wrapperspb.StringValue)
			if err := decode(request); err != nil {
				return nil, err
			}
			handler := func(ctx context.Context, request any) (any, error) {
				return wrapperspb.String(answer(ctx, request.(*wrapperspb.StringValue).GetValue())), nil
			}
			return through(ctx, request, &grpc.UnaryServerInfo{FullMethod: "/test.v1.Echo/" + name}, handler)
		},
	}
}

func fatal(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
