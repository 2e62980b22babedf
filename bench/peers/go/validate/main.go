// A hand-written ValidateToken on grpc-go: decode, HMAC-SHA256, map of 100,000, reply.
package main

import (
	"context"
	"os"

	"google.golang.org/grpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	pb "sallyport.bench/peers/gen/sallyport/v1"
	"sallyport.bench/peers/work"
)

type server struct {
	pb.UnimplementedTokenValidatorServer
	table *work.Table[*pb.ValidateTokenResponse]
}

var invalid = &pb.ValidateTokenResponse{Verdict: pb.Verdict_VERDICT_INVALID_TOKEN}

func (s *server) ValidateToken(_ context.Context, request *pb.ValidateTokenRequest) (*pb.ValidateTokenResponse, error) {
	if response, ok := s.table.Find(request.TokenString); ok {
		return response, nil
	}
	return invalid, nil
}

func main() {
	token := os.Getenv("PEER_TOKEN")
	table := work.NewTable(token, &pb.ValidateTokenResponse{
		Verdict: pb.Verdict_VERDICT_ALLOW,
		Token: &pb.ValidatedToken{
			Id: "tok_3fK9dJ2mQ7xW1aZ5bC8eR4", Tenant: "default", Profile: "pat", Principal: "user:bench",
			Scopes: []string{"items.read", "items.write"}, ExpireTime: &timestamppb.Timestamp{Seconds: 1893456000},
			Hint: "sp_pat_1aB3dE5fG",
		},
	})
	work.Serve(func(s *grpc.Server) { pb.RegisterTokenValidatorServer(s, &server{table: table}) })
}
