package sallyport

import (
	"encoding/json"
	"os"
	"slices"
	"strings"
	"testing"
	"time"
)

// The vectors that the client of every language must satisfy.
func read(t *testing.T, name string, into any) {
	t.Helper()
	text, err := os.ReadFile("../vectors/" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(text, into); err != nil {
		t.Fatal(err)
	}
}

func TestOffline(t *testing.T) {
	var vectors struct {
		Cases []struct {
			Name, Token string
			Repeat      *int
			Prefixes    *[]string
			Refused     bool
		}
	}
	read(t, "offline", &vectors)
	for _, c := range vectors.Cases {
		t.Run(c.Name, func(t *testing.T) {
			token, prefixes := c.Token, CheckedPrefixes
			if c.Repeat != nil {
				token = strings.Repeat(token, *c.Repeat)
			}
			if c.Prefixes != nil {
				prefixes = *c.Prefixes
			}
			if got := RefusedOffline(token, prefixes); got != c.Refused {
				t.Fatalf("refused: %v", got)
			}
		})
	}
}

type requirementCase struct {
	Scopes           []string
	Audience, Tenant string
}

func (r requirementCase) requirement() Requirement {
	return Requirement{Scopes: r.Scopes, Audience: r.Audience, Tenant: r.Tenant}
}

func TestDecide(t *testing.T) {
	type bounds struct{ Lower, Upper float64 }
	var vectors struct {
		Cases []struct {
			Name  string
			Facts struct {
				Scopes, Audiences []string
				Expire, NotBefore *float64
			}
			Requirement requirementCase
			Time        bounds
			Verdict     Verdict
			Missing     []string
		}
	}
	read(t, "decide", &vectors)
	for _, c := range vectors.Cases {
		t.Run(c.Name, func(t *testing.T) {
			facts := Facts{Scopes: c.Facts.Scopes, Audiences: c.Facts.Audiences}
			if c.Facts.Expire != nil {
				facts.Expire = at(*c.Facts.Expire)
			}
			if c.Facts.NotBefore != nil {
				facts.NotBefore = at(*c.Facts.NotBefore)
			}
			requirement := c.Requirement.requirement()
			verdict, missing := Decide(&facts, &requirement, TimeBounds{at(c.Time.Lower), at(c.Time.Upper)})
			if verdict != c.Verdict || !slices.Equal(missing, c.Missing) {
				t.Fatalf("%s %v", verdict, missing)
			}
		})
	}
}

func TestRequirement(t *testing.T) {
	rule := func(t *testing.T, text json.RawMessage) Requirement {
		if string(text) == `"public"` {
			return Requirement{Public: true}
		}
		var of requirementCase
		if err := json.Unmarshal(text, &of); err != nil {
			t.Fatal(err)
		}
		return of.requirement()
	}
	var vectors struct {
		Rules map[string]json.RawMessage
		Bad   []string
		Cases []struct {
			Name, Method string
			Requirement  json.RawMessage
		}
	}
	read(t, "requirement", &vectors)
	rules := Requirements{}
	for method, text := range vectors.Rules {
		rules[method] = rule(t, text)
	}
	if err := rules.Check(); err != nil {
		t.Fatal(err)
	}
	for _, c := range vectors.Cases {
		t.Run(c.Name, func(t *testing.T) {
			got, want := rules.Of(c.Method), rule(t, c.Requirement)
			if got.Public != want.Public || got.Audience != want.Audience || got.Tenant != want.Tenant ||
				!slices.Equal(got.Scopes, want.Scopes) {
				t.Fatalf("%+v", got)
			}
		})
	}
	for _, bad := range vectors.Bad {
		if (Requirements{bad: {}}).Check() == nil {
			t.Errorf("%q is taken for a method", bad)
		}
	}
}

func TestStatus(t *testing.T) {
	var vectors struct {
		Cases []struct {
			Verdict Verdict
			Code    uint32
		}
	}
	read(t, "status", &vectors)
	for _, c := range vectors.Cases {
		t.Run(string(c.Verdict), func(t *testing.T) {
			if got := RefusalOf(c.Verdict).Code(); uint32(got) != c.Code {
				t.Fatal(got)
			}
		})
	}
}

type keptCase struct {
	Key, Epoch string
	Position   int64
	Tags       []uint64
	Asked      float64
}

func TestFeed(t *testing.T) {
	var vectors struct {
		Cases []struct {
			Name  string
			Steps []struct {
				At     float64
				Answer *struct {
					Sent, Lower, Upper float64
					Epoch              string
					Position, Floor    int64
					Lease              *float64
					Changed            []uint64
				}
				Store, Refuse *keptCase
				Find, Refused *string
				Found         bool
				Acknowledges  *Version
				Time          *struct{ Lower, Upper float64 }
			}
		}
	}
	read(t, "feed", &vectors)
	for _, c := range vectors.Cases {
		t.Run(c.Name, func(t *testing.T) {
			var now time.Duration
			cache := NewFeedCache(func() time.Duration { return now })
			for _, step := range c.Steps {
				now = ms(step.At)
				switch {
				case step.Answer != nil:
					a := step.Answer
					answer := FeedAnswer{
						Version: Version{a.Epoch, a.Position}, Changed: a.Changed, Floor: a.Floor,
						Time: TimeBounds{at(a.Lower), at(a.Upper)},
					}
					if a.Lease != nil {
						lease := ms(*a.Lease)
						answer.Lease = &lease
					}
					cache.Apply(answer, ms(a.Sent))
				case step.Store != nil:
					s := step.Store
					cache.Store(s.Key, &Entry{Version: Version{s.Epoch, s.Position}, Tags: s.Tags}, ms(s.Asked))
				case step.Refuse != nil:
					s := step.Refuse
					cache.StoreRefusal(s.Key, Version{s.Epoch, s.Position}, ms(s.Asked))
				case step.Find != nil:
					if got := cache.Entry(*step.Find) != nil; got != step.Found {
						t.Fatalf("at %v: found %v", now, got)
					}
				case step.Refused != nil:
					if got := cache.Refused(*step.Refused); got != step.Found {
						t.Fatalf("at %v: refused %v", now, got)
					}
				case step.Acknowledges != nil:
					if got := cache.Applied(); got != *step.Acknowledges {
						t.Fatalf("at %v: %+v", now, got)
					}
				case step.Time != nil:
					if got := cache.Time(); !got.Lower.Equal(at(step.Time.Lower)) || !got.Upper.Equal(at(step.Time.Upper)) {
						t.Fatalf("at %v: %+v", now, got)
					}
				default:
					t.Fatal("no such step")
				}
			}
		})
	}
}

func ms(n float64) time.Duration { return time.Duration(n * float64(time.Millisecond)) }

func at(n float64) time.Time { return time.UnixMicro(int64(n * 1000)) }
