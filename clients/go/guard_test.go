package sallyport

import (
	"slices"
	"testing"
	"time"
)

type fakeTimer struct {
	at   time.Duration
	then func()
}

// fakeClock is a clock by hand.
type fakeClock struct {
	now    time.Duration
	timers []*fakeTimer
}

func (c *fakeClock) after(d time.Duration, then func()) func() {
	timer := &fakeTimer{c.now + d, then}
	c.timers = append(c.timers, timer)
	return func() {
		c.timers = slices.DeleteFunc(c.timers, func(other *fakeTimer) bool { return other == timer })
	}
}

func (c *fakeClock) to(at time.Duration) {
	for {
		due := (*fakeTimer)(nil)
		for _, timer := range c.timers {
			if timer.at <= at && (due == nil || timer.at < due.at) {
				due = timer
			}
		}
		if due == nil {
			c.now = at
			return
		}
		c.timers = slices.DeleteFunc(c.timers, func(other *fakeTimer) bool { return other == due })
		c.now = max(c.now, due.at)
		due.then()
	}
}

type entryCase struct {
	Epoch    string
	Position int64
	Tags     []uint64
}

func (e *entryCase) entry(expire *float64) *Entry {
	if e == nil {
		return nil
	}
	entry := &Entry{Version: Version{e.Epoch, e.Position}, Tags: e.Tags, Identity: &Identity{}}
	if expire != nil {
		entry.Facts.Expire = at(*expire)
	}
	return entry
}

func TestGuard(t *testing.T) {
	var vectors struct {
		Cases []struct {
			Name   string
			Cache  string
			Expire *float64
			Entry  *entryCase
			Steps  []struct {
				At   float64
				Feed *struct {
					Epoch    string
					Position int64
					Changed  []uint64
					Lease    float64
					Suspends *bool
				}
				Message *string
				Answer  *struct {
					Verdict Verdict
					Entry   *entryCase
				}
				Passed  []string
				Pending bool
				Ended   *Verdict
			}
		}
	}
	read(t, "guard", &vectors)
	for _, c := range vectors.Cases {
		t.Run(c.Name, func(t *testing.T) {
			clock := &fakeClock{}
			mono := func() time.Duration { return clock.now }
			cache := NewFeedCache(mono)
			apply := func(v Version, changed []uint64, lease float64) {
				now, length := time.UnixMilli(0).Add(clock.now), ms(lease)
				cache.Apply(FeedAnswer{Version: v, Changed: changed, Lease: &length, Time: TimeBounds{now, now}}, clock.now)
			}
			apply(Version{"e", 5}, nil, 1300)
			var asked []func(Check)
			var passed []string
			var ends []Verdict
			g := &guard{
				requirement: &Requirement{}, clock: guardClock{mono, clock.after},
				check: func(done func(Check)) { asked = append(asked, done) },
				end:   func(verdict Verdict) { ends = append(ends, verdict) },
			}
			if c.Cache != "off" {
				g.cache = cache
			}
			g.start(Check{Verdict: Allow, Entry: c.Entry.entry(c.Expire)})
			defer g.close()
			for _, step := range c.Steps {
				clock.to(ms(step.At))
				switch {
				case step.Feed != nil:
					apply(Version{step.Feed.Epoch, step.Feed.Position}, step.Feed.Changed, step.Feed.Lease)
					if step.Feed.Suspends != nil && *step.Feed.Suspends != (len(asked) > 0) {
						t.Fatalf("at %v: suspended %v", clock.now, len(asked) > 0)
					}
				case step.Message != nil:
					g.pass(func() { passed = append(passed, *step.Message) })
				case step.Answer != nil:
					if len(asked) == 0 {
						t.Fatalf("at %v: no check is in flight", clock.now)
					}
					done := asked[0]
					asked = asked[1:]
					done(Check{Verdict: step.Answer.Verdict, Entry: step.Answer.Entry.entry(c.Expire)})
				default:
					ended := Verdict("")
					if len(ends) > 0 {
						ended = ends[0]
					}
					want := Verdict("")
					if step.Ended != nil {
						want = *step.Ended
					}
					if !slices.Equal(passed, step.Passed) || len(asked) > 0 != step.Pending || ended != want {
						t.Fatalf("at %v: passed %v, pending %v, ended %q", clock.now, passed, len(asked) > 0, ended)
					}
					passed = nil
				}
			}
			if len(ends) > 1 {
				t.Fatal(ends)
			}
		})
	}
}
