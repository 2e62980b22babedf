package sallyport

import (
	"context"
	"crypto/sha256"
	"encoding/json"
	"os"
	"syscall"
	"testing"
	"time"

	pb "sallyport/client/gen/sallyportv1"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// alwaysLive answers every check with ALLOW and an entry, and the first poll with a lease of an hour.
type alwaysLive struct{ polled chan struct{} }

func (a *alwaysLive) Validate(context.Context, *pb.ValidateTokenRequest, bool) (*pb.ValidateTokenResponse, error) {
	return &pb.ValidateTokenResponse{
		Verdict: pb.Verdict_VERDICT_ALLOW,
		Token: &pb.ValidatedToken{
			Id: "tok_1", Tenant: "default", Principal: "user:ann", Profile: "pat", Scopes: []string{"orders.read", "billing.*"},
			ExpireTime: timestamppb.New(time.Now().Add(24 * time.Hour)),
		},
		Entry: &pb.CacheEntry{Epoch: make([]byte, 16), Position: 5, Tags: []uint64{1, 2, 3}},
	}, nil
}

func (a *alwaysLive) Watch(ctx context.Context, request *pb.WatchChangesRequest) (*pb.WatchChangesResponse, error) {
	select {
	case <-a.polled:
		<-ctx.Done()
		return nil, ctx.Err()
	default:
	}
	close(a.polled)
	now := timestamppb.Now()
	return &pb.WatchChangesResponse{
		Sequence: request.Sequence, Epoch: make([]byte, 16), Position: 5, Lease: durationpb.New(time.Hour),
		TimeLower: now, TimeUpper: now,
	}, nil
}

func (a *alwaysLive) Close() error { return nil }

func tokenString(b *testing.B) string {
	text, err := os.ReadFile("../vectors/offline.json")
	if err != nil {
		b.Fatal(err)
	}
	var vectors struct {
		Cases []struct {
			Token   string
			Refused bool
		}
	}
	if err := json.Unmarshal(text, &vectors); err != nil {
		b.Fatal(err)
	}
	for _, c := range vectors.Cases {
		if !c.Refused && len(c.Token) > 60 {
			return c.Token
		}
	}
	b.Fatal("no token among the vectors")
	return ""
}

// cpuPerCall reports the CPU time of the process: the machine may be busy with other things.
func cpuPerCall(b *testing.B, call func()) {
	used := func() time.Duration {
		var usage syscall.Rusage
		if err := syscall.Getrusage(syscall.RUSAGE_SELF, &usage); err != nil {
			b.Fatal(err)
		}
		return time.Duration(usage.Utime.Nano() + usage.Stime.Nano())
	}
	before, calls := used(), 0
	for b.Loop() {
		call()
		calls++
	}
	b.ReportMetric(float64(used()-before)/float64(calls), "cpu-ns/op")
}

// BenchmarkCachedCheck is the cost of a check that the cache answers.
func BenchmarkCachedCheck(b *testing.B) {
	checker := NewChecker(Options{Validator: &alwaysLive{polled: make(chan struct{})}, Feed: true})
	defer checker.Close()
	token := tokenString(b)
	requirement := &Requirement{Scopes: []string{"orders.read"}}
	for checker.cache.Lease() == 0 {
		time.Sleep(time.Millisecond)
	}
	checker.Check(context.Background(), token, requirement, Origin{})
	cpuPerCall(b, func() {
		if _, tier := checker.check(context.Background(), token, requirement, Origin{}, 0); tier != "cache" {
			b.Fatal("answered by " + tier)
		}
	})
}

// BenchmarkHash is the part of it that no cache by hash can save.
func BenchmarkHash(b *testing.B) {
	token := []byte(tokenString(b))
	cpuPerCall(b, func() { sha256.Sum256(token) })
}
