// A hand-written Envoy ext_authz server on grpc-go: decode, HMAC-SHA256, map of 100,000, reply.
package main

import (
	"context"
	"os"
	"strings"

	core "github.com/envoyproxy/go-control-plane/envoy/config/core/v3"
	auth "github.com/envoyproxy/go-control-plane/envoy/service/auth/v3"
	"google.golang.org/genproto/googleapis/rpc/status"
	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/structpb"

	"sallyport.bench/peers/work"
)

type server struct {
	auth.UnimplementedAuthorizationServer
	table *work.Table[*auth.CheckResponse]
}

var denied = &auth.CheckResponse{Status: &status.Status{Code: 16}}

func (s *server) Check(_ context.Context, request *auth.CheckRequest) (*auth.CheckResponse, error) {
	value := request.GetAttributes().GetRequest().GetHttp().GetHeaders()["authorization"]
	if token, ok := strings.CutPrefix(value, "Bearer "); ok {
		if response, ok := s.table.Find(token); ok {
			return response, nil
		}
	}
	return denied, nil
}

func header(key, value string) *core.HeaderValueOption {
	return &core.HeaderValueOption{
		Header:       &core.HeaderValue{Key: key, Value: value},
		AppendAction: core.HeaderValueOption_OVERWRITE_IF_EXISTS_OR_ADD,
	}
}

func main() {
	metadata, err := structpb.NewStruct(map[string]any{"principal": "user:bench"})
	if err != nil {
		panic(err)
	}
	allowed := &auth.CheckResponse{
		Status: &status.Status{},
		HttpResponse: &auth.CheckResponse_OkResponse{OkResponse: &auth.OkHttpResponse{
			Headers: []*core.HeaderValueOption{
				header("x-auth-principal", "user:bench"), header("x-auth-tenant", "default"),
				header("x-auth-token-id", "tok_3fK9dJ2mQ7xW1aZ5bC8eR4"),
				header("x-auth-scopes", "items.read items.write"), header("x-auth-profile", "pat"),
			},
			HeadersToRemove: []string{"authorization"},
		}},
		DynamicMetadata: metadata,
	}
	table := work.NewTable(os.Getenv("PEER_TOKEN"), allowed)
	work.Serve(func(s *grpc.Server) { auth.RegisterAuthorizationServer(s, &server{table: table}) })
}
