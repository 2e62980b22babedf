package sallyport

import (
	"context"
	"errors"
	"slices"
	"testing"
	"time"

	pb "sallyport/client/gen/sallyportv1"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// server is a server by hand: one answer for every check, and a feed with one lease.
type server struct {
	answer *pb.ValidateTokenResponse
	asked  []*pb.ValidateTokenRequest
}

var epoch = []byte{0, 200, 255}

func (s *server) Validate(_ context.Context, request *pb.ValidateTokenRequest, _ bool) (*pb.ValidateTokenResponse, error) {
	s.asked = append(s.asked, request)
	return proto.CloneOf(s.answer), nil
}

func (s *server) Watch(ctx context.Context, request *pb.WatchChangesRequest) (*pb.WatchChangesResponse, error) {
	if request.Leaving {
		return nil, errors.New("left")
	}
	if len(request.Epoch) > 0 {
		<-ctx.Done()
		return nil, ctx.Err()
	}
	now := timestamppb.Now()
	return &pb.WatchChangesResponse{
		Sequence: request.Sequence, Epoch: epoch, Position: 5, Floor: 5,
		Lease: durationpb.New(time.Minute), TimeLower: now, TimeUpper: now,
	}, nil
}

func (s *server) Close() error { return nil }

func TestTenant(t *testing.T) {
	var vectors struct {
		Cases []struct {
			Name, Tenant string
			Answer       struct {
				Verdict string
				Token   *struct {
					Tenant  string
					Tenants []string
				}
			}
			Verdict Verdict
			Entry   bool
			Calls   int
		}
	}
	read(t, "tenant", &vectors)
	for _, c := range vectors.Cases {
		t.Run(c.Name, func(t *testing.T) {
			verdict, known := pb.Verdict_value["VERDICT_"+c.Answer.Verdict]
			if !known {
				t.Fatal(c.Answer.Verdict)
			}
			s := &server{answer: &pb.ValidateTokenResponse{
				Verdict: pb.Verdict(verdict), Entry: &pb.CacheEntry{Epoch: epoch, Position: 5, Tags: []uint64{7}},
			}}
			if token := c.Answer.Token; token != nil {
				s.answer.Token = &pb.ValidatedToken{Id: "tok_1", Tenant: token.Tenant, Tenants: token.Tenants}
			}
			leased := make(chan struct{}, 1)
			checker := NewChecker(Options{Validator: s, Feed: true, Hooks: Hooks{
				Lease: func(time.Duration) { leased <- struct{}{} },
			}})
			defer checker.Close()
			<-leased
			var tenants []string
			for range 2 {
				check := checker.Check(t.Context(), "opaque", &Requirement{Tenant: c.Tenant}, Origin{})
				if check.Verdict != c.Verdict || (check.Identity != nil) != (c.Verdict == Allow) || (check.Entry != nil) != c.Entry {
					t.Fatalf("%+v", check)
				}
				tenants = append(tenants, c.Tenant)
			}
			if len(s.asked) != c.Calls {
				t.Fatalf("asked %d times", len(s.asked))
			}
			if !slices.EqualFunc(s.asked, tenants[:c.Calls], func(r *pb.ValidateTokenRequest, tenant string) bool {
				return r.Tenant == tenant
			}) {
				t.Fatal(s.asked)
			}
		})
	}
}

func TestRequirementTenantIsOneThatTheServerTakes(t *testing.T) {
	long := Requirement{Tenant: string(make([]byte, 64))}
	if (Requirements{"a.v1.A/B": long}).Check() == nil {
		t.Fatal("a tenant of 64 characters is taken")
	}
}
