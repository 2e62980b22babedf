package sallyport

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	mathrand "math/rand/v2"
	"time"

	pb "sallyport/client/gen/sallyportv1"
)

const (
	giveUp       = 1500 * time.Millisecond // the longest wait for an answer; a later one is ignored
	leaveTime    = 500 * time.Millisecond
	firstPause   = 50 * time.Millisecond
	longestPause = time.Second
)

// follower follows the change feed for a cache: one request in flight, and the next only after its answer is applied.
type follower struct {
	validator  Validator
	cache      *FeedCache
	mono       func() time.Duration
	hooks      *Hooks
	cacheID    string
	instanceID string
	sequence   uint64
	state      string
	stop       context.CancelFunc
	done       chan struct{}
}

func follow(validator Validator, cache *FeedCache, mono func() time.Duration, hooks *Hooks) *follower {
	ctx, stop := context.WithCancel(context.Background())
	f := &follower{
		validator: validator, cache: cache, mono: mono, hooks: hooks,
		cacheID: newUUID(), stop: stop, done: make(chan struct{}),
	}
	go f.run(ctx)
	return f
}

// leave ends the lease and tells the server, so that no change waits for this cache.
func (f *follower) leave() {
	f.stop()
	<-f.done
	f.cache.DropLease()
	ctx, cancel := context.WithTimeout(context.Background(), leaveTime)
	defer cancel()
	// Without an answer the server waits for the end of the lease that it gave.
	_, _ = f.validator.Watch(ctx, f.request(true))
	f.enter("left")
}

func (f *follower) run(ctx context.Context) {
	defer close(f.done)
	pause := firstPause
	for ctx.Err() == nil {
		err := f.once(ctx)
		if ctx.Err() != nil {
			return
		}
		if err == nil {
			pause = firstPause
			f.enter("following")
			continue
		}
		f.enter("lost")
		select {
		case <-ctx.Done():
		case <-time.After(pause/2 + mathrand.N(pause/2)):
		}
		pause = min(2*pause, longestPause)
	}
}

func (f *follower) once(ctx context.Context) error {
	request := f.request(false)
	sent := f.mono() // before the send: a lease counts from here
	call, cancel := context.WithTimeout(ctx, giveUp)
	defer cancel()
	answer, err := f.validator.Watch(call, request)
	if err != nil {
		return err
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if answer.GetSequence() != request.GetSequence() {
		return errors.New("the answer is not this request's")
	}
	if len(answer.GetEpoch()) == 0 {
		return errors.New("the answer has no epoch")
	}
	f.instanceID = answer.GetInstanceId()
	f.cache.Apply(feedAnswer(answer), sent)
	f.hooks.lease(f.cache.Lease())
	return nil
}

func feedAnswer(answer *pb.WatchChangesResponse) FeedAnswer {
	applied := FeedAnswer{
		Version: Version{string(answer.GetEpoch()), answer.GetPosition()},
		Changed: answer.GetChanged(),
		Floor:   answer.GetFloor(),
	}
	// A lease without both times could judge no expiry.
	if answer.TimeLower == nil || answer.TimeUpper == nil {
		return applied
	}
	applied.Time = TimeBounds{answer.TimeLower.AsTime(), answer.TimeUpper.AsTime()}
	if answer.Lease != nil {
		lease := answer.Lease.AsDuration()
		applied.Lease = &lease
	}
	return applied
}

func (f *follower) request(leaving bool) *pb.WatchChangesRequest {
	f.sequence++
	applied := f.cache.Applied()
	request := &pb.WatchChangesRequest{
		CacheId: f.cacheID, Sequence: f.sequence, InstanceId: f.instanceID, Leaving: leaving,
	}
	if applied.Epoch != "" {
		request.Epoch, request.Position = []byte(applied.Epoch), applied.Position
	}
	return request
}

func (f *follower) enter(state string) {
	if f.state != state {
		f.state = state
		f.hooks.feed(state)
	}
}

func newUUID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	b[6], b[8] = b[6]&0x0f|0x40, b[8]&0x3f|0x80
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
