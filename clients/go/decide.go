package sallyport

import (
	"slices"
	"strings"
	"time"
)

// Verdict is the answer about a request's token.
type Verdict string

const (
	Allow             Verdict = "ALLOW"
	NoCredential      Verdict = "NO_CREDENTIAL"
	InvalidToken      Verdict = "INVALID_TOKEN"
	InsufficientScope Verdict = "INSUFFICIENT_SCOPE"
	WrongAudience     Verdict = "WRONG_AUDIENCE"
	WrongTenant       Verdict = "WRONG_TENANT"
	AddressNotAllowed Verdict = "ADDRESS_NOT_ALLOWED"
	RateLimited       Verdict = "RATE_LIMITED"
	Undetermined      Verdict = "UNDETERMINED"
)

// Facts is what a cached token is judged by. A zero time is no limit.
type Facts struct {
	Scopes    []string
	Audiences []string
	Expire    time.Time
	NotBefore time.Time
}

// TimeBounds are two bounds of the database's time.
type TimeBounds struct{ Lower, Upper time.Time }

// Decide judges a token by its facts, as the server does: the same verdicts in the same order. Expiry is judged by the
// upper bound and not-before by the lower, so a token ends early or begins late by milliseconds, never the other way round.
func Decide(facts *Facts, requirement *Requirement, now TimeBounds) (Verdict, []string) {
	if !facts.Expire.IsZero() && !now.Upper.Before(facts.Expire) {
		return InvalidToken, nil
	}
	if !facts.NotBefore.IsZero() && now.Lower.Before(facts.NotBefore) {
		return InvalidToken, nil
	}
	if len(facts.Audiences) > 0 && !slices.Contains(facts.Audiences, requirement.Audience) {
		return WrongAudience, nil
	}
	var missing []string
	for _, scope := range requirement.Scopes {
		if !slices.ContainsFunc(facts.Scopes, func(granted string) bool { return covers(granted, scope) }) {
			missing = append(missing, scope)
		}
	}
	if missing != nil {
		return InsufficientScope, missing
	}
	return Allow, nil
}

// covers is true if a granted scope is equal to an exact one, or ends in ".*" or ":*" and is its beginning.
func covers(granted, required string) bool {
	if granted == required {
		return true
	}
	if !strings.HasSuffix(granted, ".*") && !strings.HasSuffix(granted, ":*") {
		return false
	}
	return len(required) >= len(granted) && strings.HasPrefix(required, granted[:len(granted)-1])
}
