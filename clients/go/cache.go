package sallyport

import (
	"math"
	"sync"
	"time"
)

const (
	maxEntries  = 10_000
	maxTags     = 100_000
	entryLife   = 60 * time.Second // absolute: so the server's record of last use is exact to a minute
	refusalLife = 5 * time.Second
)

// Identity is what a live token says about its caller. A zero Expire: the token never expires.
type Identity struct {
	TokenID, Tenant, Principal, Profile string
	Scopes, Audiences                   []string
	Expire                              time.Time
	Annotations                         map[string]string
}

// Version says which changes an answer includes.
type Version struct {
	Epoch    string
	Position int64
}

// Entry holds a live token's facts as of a version. They are no verdict: that is made anew at each use.
type Entry struct {
	Version
	Tags     []uint64
	Facts    Facts
	Identity *Identity
}

// FeedAnswer is an answer of the change feed. Lease counts from the send of the request; nil: no new lease.
type FeedAnswer struct {
	Version
	Lease   *time.Duration
	Changed []uint64
	Floor   int64
	Time    TimeBounds
}

type stored[T any] struct {
	value T
	since time.Duration
	order uint64
}

// FeedCache is the cache of a client that follows the change feed. Nothing in it is used without a lease, and nothing that
// a change has reached. The clock is monotonic and counts from any start.
type FeedCache struct {
	mono func() time.Duration

	mu         sync.Mutex
	entries    ring[*Entry]
	refusals   ring[Version]
	changed    map[uint64]int64 // the highest position at which each tag changed
	version    Version
	floor      int64
	leaseUntil time.Duration
	clock      struct {
		time           TimeBounds
		sent, received time.Duration
	}
	watchers map[*func()]struct{}
}

const noLease = time.Duration(math.MinInt64)

// NewFeedCache returns an empty cache.
func NewFeedCache(mono func() time.Duration) *FeedCache {
	c := &FeedCache{mono: mono, watchers: map[*func()]struct{}{}}
	c.forget("")
	return c
}

// Applied is what the next request acknowledges.
func (c *FeedCache) Applied() Version {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.version
}

// Lease is the time for which entries may still be used; 0 without one.
func (c *FeedCache) Lease() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	return max(0, c.leaseUntil-min(c.mono(), c.leaseUntil))
}

// Usable is true if the entry may be used now.
func (c *FeedCache) Usable(e *Entry) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.usable(e)
}

func (c *FeedCache) usable(e *Entry) bool {
	if e.Epoch != c.version.Epoch || c.mono() >= c.leaseUntil || e.Position < c.floor {
		return false
	}
	for _, tag := range e.Tags {
		if changed, ok := c.changed[tag]; ok && e.Position < changed {
			return false
		}
	}
	return true
}

// Time returns bounds of the database's time now. They mean something only with a lease.
func (c *FeedCache) Time() TimeBounds {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.mono()
	return TimeBounds{
		Lower: c.clock.time.Lower.Add(now - c.clock.received),
		Upper: c.clock.time.Upper.Add(now - c.clock.sent),
	}
}

// Entry returns the usable entry of a key, or nil. One that is not usable is dropped, unless only the lease is missing.
func (c *FeedCache) Entry(key string) *Entry {
	c.mu.Lock()
	defer c.mu.Unlock()
	kept, ok := c.entries.of[key]
	if !ok {
		return nil
	}
	if c.mono()-kept.since < entryLife {
		if c.usable(kept.value) {
			return kept.value
		}
		if c.mono() >= c.leaseUntil {
			return nil
		}
	}
	delete(c.entries.of, key)
	return nil
}

// Refused is true if the key was refused lately and nothing at all has changed since, so that the refusal still stands.
func (c *FeedCache) Refused(key string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	kept, ok := c.refusals.of[key]
	if !ok {
		return false
	}
	if c.mono()-kept.since < refusalLife && c.stands(kept.value) {
		return c.mono() < c.leaseUntil
	}
	delete(c.refusals.of, key)
	return false
}

func (c *FeedCache) stands(v Version) bool {
	return v.Epoch == c.version.Epoch && c.version.Position <= v.Position
}

// Store keeps the facts of a token that was asked for at since.
func (c *FeedCache) Store(key string, e *Entry, since time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.usable(e) {
		delete(c.refusals.of, key)
		c.entries.put(key, e, since)
	}
}

// StoreRefusal keeps the answer that a string is no live token, asked for at since.
func (c *FeedCache) StoreRefusal(key string, v Version, since time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.entries.of, key)
	if c.stands(v) {
		c.refusals.put(key, v, since)
	}
}

// Apply applies an answer to the request that was sent at sent, whole and in one step, and tells the watchers before the
// next request can acknowledge it.
func (c *FeedCache) Apply(answer FeedAnswer, sent time.Duration) {
	c.mu.Lock()
	if answer.Epoch != c.version.Epoch {
		c.forget(answer.Epoch)
	}
	for _, tag := range answer.Changed {
		if changed, ok := c.changed[tag]; !ok || changed < answer.Position {
			c.changed[tag] = answer.Position
		}
	}
	c.floor = max(c.floor, answer.Floor)
	c.version.Position = max(c.version.Position, answer.Position)
	if len(c.changed) > maxTags {
		c.floor = c.version.Position
		clear(c.changed)
	}
	c.clock.time, c.clock.sent, c.clock.received = answer.Time, sent, c.mono()
	if answer.Lease != nil {
		c.leaseUntil = max(c.leaseUntil, sent+*answer.Lease)
	}
	c.tell()
}

// DropLease ends the lease, for a cache that leaves the feed.
func (c *FeedCache) DropLease() {
	c.mu.Lock()
	c.leaseUntil = noLease
	c.tell()
}

// tell unlocks the cache and calls the watchers.
func (c *FeedCache) tell() {
	watchers := make([]*func(), 0, len(c.watchers))
	for watcher := range c.watchers {
		watchers = append(watchers, watcher)
	}
	c.mu.Unlock()
	for _, watcher := range watchers {
		(*watcher)()
	}
}

// Watch calls watcher in the step of every answer, until the function that it returns is called.
func (c *FeedCache) Watch(watcher func()) func() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.watchers[&watcher] = struct{}{}
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.watchers, &watcher)
	}
}

func (c *FeedCache) forget(epoch string) {
	c.leaseUntil = noLease
	c.entries = ring[*Entry]{of: map[string]stored[*Entry]{}}
	c.refusals = ring[Version]{of: map[string]stored[Version]{}}
	c.changed = map[uint64]int64{}
	c.floor = 0
	c.version = Version{Epoch: epoch, Position: -1}
}

// ring is a map that forgets the oldest of too many values.
type ring[T any] struct {
	of     map[string]stored[T]
	queue  []string
	orders []uint64
	next   uint64
}

func (r *ring[T]) put(key string, value T, since time.Duration) {
	r.next++
	r.of[key] = stored[T]{value, since, r.next}
	r.queue, r.orders = append(r.queue, key), append(r.orders, r.next)
	// A key that was stored again since is in the queue once more, further back.
	for len(r.of) > maxEntries || len(r.queue) > 2*maxEntries {
		if kept, ok := r.of[r.queue[0]]; ok && kept.order == r.orders[0] {
			delete(r.of, r.queue[0])
		}
		r.queue, r.orders = r.queue[1:], r.orders[1:]
	}
}
