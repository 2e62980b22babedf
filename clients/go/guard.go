package sallyport

import (
	"sync"
	"time"
)

const (
	holdTime    = 500 * time.Millisecond // the longest time for which messages wait for a new check
	againTime   = 20 * time.Millisecond  // before a check is repeated that is older than a known change, or had no answer
	recheckTime = time.Second            // between the checks of a stream whose token has no usable entry
)

// guardClock is the clock of a guard. after returns the function that prevents the call.
type guardClock struct {
	mono  func() time.Duration
	after func(time.Duration, func()) func()
}

func afterFunc(d time.Duration, then func()) func() {
	timer := time.AfterFunc(d, then)
	return func() { timer.Stop() }
}

type guardState int

const (
	open guardState = iota
	suspended
	closed
)

// guard keeps a stream as fresh as a unary call: no message passes, in either direction, on a token that is no longer
// usable. Such a stream is suspended and checked again; it then goes on or ends.
type guard struct {
	cache       *FeedCache // nil: off
	check       func(done func(Check))
	end         func(Verdict) // called at most once
	requirement *Requirement
	clock       guardClock
	unwatch     func()

	mu     sync.Mutex
	entry  *Entry
	state  guardState
	held   []func()
	cancel func() // of the next look
	limit  func() // of the suspension
	round  int    // the suspensions so far
	begun  time.Duration
}

func (g *guard) start(opened Check) {
	g.entry = opened.Entry
	if g.cache != nil {
		// Called in the step that applies an answer, so before the acknowledgement.
		g.unwatch = g.cache.Watch(g.look)
	}
	g.look()
}

// pass lets a message pass now, or once a new check admits it. It never passes if the stream ends.
func (g *guard) pass(message func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.passLocked(message)
}

func (g *guard) passLocked(message func()) {
	if g.state == open && g.entry != nil && !g.good() {
		g.suspend()
	}
	switch g.state {
	case open:
		message()
	case suspended:
		g.held = append(g.held, message)
	}
}

// close says that the stream is over.
func (g *guard) close() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.closeLocked()
}

func (g *guard) closeLocked() {
	if g.state == closed {
		return
	}
	g.state, g.held = closed, nil
	call(&g.cancel)
	call(&g.limit)
	call(&g.unwatch)
}

// good is true if the entry is usable and still admits the stream. Without an entry only the timer asks.
func (g *guard) good() bool {
	if g.cache == nil || g.entry == nil || !g.cache.Usable(g.entry) {
		return false
	}
	verdict, _ := Decide(&g.entry.Facts, g.requirement, g.cache.Time())
	return verdict == Allow
}

// look suspends the stream if its entry is not good, and otherwise looks again when the entry can first cease to be.
func (g *guard) look() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.lookLocked()
}

func (g *guard) lookLocked() {
	switch {
	case g.state != open:
	case g.entry == nil:
		if g.cancel == nil {
			g.cancel = g.clock.after(recheckTime, g.expired)
		}
	case !g.good():
		g.suspend()
	default:
		soonest := g.cache.Lease()
		if expire := g.entry.Facts.Expire; !expire.IsZero() {
			soonest = min(soonest, expire.Sub(g.cache.Time().Upper))
		}
		call(&g.cancel)
		g.cancel = g.clock.after(max(time.Millisecond, soonest), g.look)
	}
}

func (g *guard) expired() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state == open {
		g.suspend()
	}
}

func (g *guard) suspend() {
	g.state = suspended
	g.round++
	g.begun = g.clock.mono()
	call(&g.cancel)
	round := g.round
	// The limit holds for a check without an answer too.
	g.limit = g.clock.after(holdTime, func() { g.inRound(round, func() { g.endLocked(Undetermined) }) })
	g.recheck(round)
}

func (g *guard) recheck(round int) {
	g.check(func(answer Check) { g.inRound(round, func() { g.answered(round, answer) }) })
}

// inRound runs then if the stream is still suspended, in that round.
func (g *guard) inRound(round int, then func()) {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.state == suspended && g.round == round {
		then()
	}
}

func (g *guard) answered(round int, answer Check) {
	if answer.Verdict != Allow && answer.Verdict != Undetermined {
		g.endLocked(answer.Verdict)
		return
	}
	g.entry = answer.Entry
	if answer.Verdict == Allow {
		if g.entry != nil && g.cache.Lease() == 0 {
			// The answer was made after the suspension, so the held messages may pass; without a lease the entry is
			// worth nothing more, and the stream is checked by time.
			g.entry = nil
		}
		if g.entry == nil || g.good() {
			g.resume()
			return
		}
	}
	if g.clock.mono()-g.begun >= holdTime {
		g.endLocked(Undetermined)
		return
	}
	g.clock.after(againTime, func() { g.inRound(round, func() { g.recheck(round) }) })
}

func (g *guard) resume() {
	g.state = open
	call(&g.limit)
	held := g.held
	g.held = nil
	// Each of them looks again: a change may come in between.
	for _, message := range held {
		g.passLocked(message)
	}
	g.lookLocked()
}

func (g *guard) endLocked(verdict Verdict) {
	g.closeLocked()
	g.end(verdict)
}

// call calls a function if there is one, and forgets it.
func call(function *func()) {
	if *function != nil {
		(*function)()
		*function = nil
	}
}
