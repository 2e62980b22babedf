package sallyport

import (
	"context"
	"errors"

	pb "sallyport/client/gen/sallyportv1"

	"google.golang.org/grpc"
	"google.golang.org/grpc/connectivity"
	"google.golang.org/grpc/metadata"
)

// ErrNotSent says that no byte of a request left this process, so it may be sent again.
var ErrNotSent = errors.New("the request was not sent")

// Validator is a way to the server. Each call ends when its context does.
type Validator interface {
	// Validate returns ErrNotSent if no byte of the request left this process; wait lets it wait for a connection.
	Validate(ctx context.Context, request *pb.ValidateTokenRequest, wait bool) (*pb.ValidateTokenResponse, error)
	// Watch is the change feed, on a connection that no check shares: checks must not hold it back.
	Watch(ctx context.Context, request *pb.WatchChangesRequest) (*pb.WatchChangesResponse, error)
	Close() error
}

// GrpcOptions are optional.
type GrpcOptions struct {
	// Bearer is a token with sallyport.validate, where the server asks for one.
	Bearer string
	Dial   []grpc.DialOption
}

type grpcValidator struct {
	checks, feed *grpc.ClientConn
	bearer       string
}

// NewGrpcValidator returns a way to the server at a gRPC target, with one connection for checks and one for the feed.
func NewGrpcValidator(target string, options GrpcOptions) (Validator, error) {
	checks, err := grpc.NewClient(target, options.Dial...)
	if err != nil {
		return nil, err
	}
	feed, err := grpc.NewClient(target, options.Dial...)
	if err != nil {
		return nil, errors.Join(err, checks.Close())
	}
	return &grpcValidator{checks, feed, options.Bearer}, nil
}

func (v *grpcValidator) Validate(ctx context.Context, request *pb.ValidateTokenRequest, wait bool) (*pb.ValidateTokenResponse, error) {
	if !wait && v.checks.GetState() != connectivity.Ready {
		v.checks.Connect()
		return nil, ErrNotSent
	}
	answer := new(pb.ValidateTokenResponse)
	err := v.checks.Invoke(v.outgoing(ctx), "/sallyport.v1.TokenValidator/ValidateToken", request, answer, grpc.WaitForReady(wait))
	return answer, err
}

func (v *grpcValidator) Watch(ctx context.Context, request *pb.WatchChangesRequest) (*pb.WatchChangesResponse, error) {
	answer := new(pb.WatchChangesResponse)
	err := v.feed.Invoke(v.outgoing(ctx), "/sallyport.v1.TokenValidator/WatchChanges", request, answer, grpc.WaitForReady(true))
	return answer, err
}

func (v *grpcValidator) Close() error {
	return errors.Join(v.checks.Close(), v.feed.Close())
}

// outgoing returns a context with this service's own credential; what its caller sent is not forwarded.
func (v *grpcValidator) outgoing(ctx context.Context) context.Context {
	if v.bearer == "" {
		return metadata.NewOutgoingContext(ctx, nil)
	}
	return metadata.NewOutgoingContext(ctx, metadata.Pairs("authorization", "Bearer "+v.bearer))
}
