package sallyport

import (
	"context"
	"crypto/sha256"
	"errors"
	"slices"
	"time"

	pb "sallyport/client/gen/sallyportv1"

	"google.golang.org/protobuf/types/known/timestamppb"
)

const checkTime = 300 * time.Millisecond

// Hooks are called with what happens. A hook never sees a token string. Each may be nil.
type Hooks struct {
	Checked     func(verdict Verdict, tier string, took time.Duration)
	Lease       func(left time.Duration)
	Feed        func(state string)
	StreamEnded func(reason Verdict)
}

func (h *Hooks) lease(left time.Duration) {
	if h.Lease != nil {
		h.Lease(left)
	}
}

func (h *Hooks) feed(state string) {
	if h.Feed != nil {
		h.Feed(state)
	}
}

// Options of a Checker. Only Validator is required.
type Options struct {
	Validator Validator
	// Feed keeps the facts of live tokens and follows the server's changes. Otherwise the server is asked each time.
	Feed bool
	// CheckedPrefixes of token strings that carry a checksum; nil: CheckedPrefixes.
	CheckedPrefixes []string
	Hooks           Hooks
	// Timeout is the longest time of one check, its retry included; 0: 300 ms.
	Timeout time.Duration
}

// Origin of a request.
type Origin struct {
	// ClientAddress is an IP address without a port.
	ClientAddress string
	Path          string
}

// Check is the answer about a request. Identity is present for ALLOW only; Entry is what the verdict rests on, if it may
// be cached.
type Check struct {
	Verdict       Verdict
	Identity      *Identity
	MissingScopes []string
	Entry         *Entry
}

// Checker checks the tokens of requests. There is no setting by which an outage admits a request.
type Checker struct {
	options  Options
	cache    *FeedCache
	follower *follower
	mono     func() time.Duration
}

// NewChecker returns a checker; Close ends it.
func NewChecker(options Options) *Checker {
	begun := time.Now()
	c := &Checker{options: options, mono: func() time.Duration { return time.Since(begun) }}
	if c.options.CheckedPrefixes == nil {
		c.options.CheckedPrefixes = CheckedPrefixes
	}
	if c.options.Timeout == 0 {
		c.options.Timeout = checkTime
	}
	if options.Feed {
		c.cache = NewFeedCache(c.mono)
		c.follower = follow(options.Validator, c.cache, c.mono, &c.options.Hooks)
	}
	return c
}

// Close leaves the feed and closes the connections.
func (c *Checker) Close() error {
	if c.follower != nil {
		c.follower.leave()
	}
	return c.options.Validator.Close()
}

// Check judges a token string against a requirement. The empty string is INVALID_TOKEN, without a call.
func (c *Checker) Check(ctx context.Context, token string, requirement *Requirement, origin Origin) Check {
	begun := c.mono()
	check, tier := c.check(ctx, token, requirement, origin, begun)
	if c.options.Hooks.Checked != nil {
		c.options.Hooks.Checked(check.Verdict, tier, c.mono()-begun)
	}
	return check
}

func (c *Checker) check(ctx context.Context, token string, requirement *Requirement, origin Origin, begun time.Duration) (Check, string) {
	if RefusedOffline(token, c.options.CheckedPrefixes) {
		return Check{Verdict: InvalidToken}, "offline"
	}
	key := ""
	if c.cache != nil {
		sum := sha256.Sum256([]byte(token))
		key = string(sum[:])
		if check, ok := c.cached(key, requirement); ok {
			return check, "cache"
		}
	}
	answer, err := c.ask(ctx, token, requirement, origin)
	if err != nil {
		return Check{Verdict: Undetermined}, "server"
	}
	return c.judge(key, answer, requirement, begun), "server"
}

// cached never answers a check that names a tenant: the server knows which tenants a token may act in.
func (c *Checker) cached(key string, requirement *Requirement) (Check, bool) {
	if requirement.Tenant != "" {
		return Check{}, false
	}
	entry := c.cache.Entry(key)
	if entry == nil {
		return Check{Verdict: InvalidToken}, c.cache.Refused(key)
	}
	verdict, missing := Decide(&entry.Facts, requirement, c.cache.Time())
	if verdict != Allow {
		return Check{Verdict: verdict, MissingScopes: missing}, true
	}
	return Check{Verdict: Allow, Identity: entry.Identity, Entry: entry}, true
}

func (c *Checker) ask(ctx context.Context, token string, requirement *Requirement, origin Origin) (*pb.ValidateTokenResponse, error) {
	ctx, cancel := context.WithTimeout(ctx, c.options.Timeout)
	defer cancel()
	request := &pb.ValidateTokenRequest{
		TokenString: token, RequiredScopes: requirement.Scopes, Audience: requirement.Audience,
		Context:   &pb.RequestContext{ClientAddress: origin.ClientAddress, Path: origin.Path},
		Tenant:    requirement.Tenant,
		WantEntry: c.cache != nil,
	}
	answer, err := c.options.Validator.Validate(ctx, request, false)
	if errors.Is(err, ErrNotSent) && ctx.Err() == nil {
		answer, err = c.options.Validator.Validate(ctx, request, true)
	}
	return answer, err
}

// judge returns the verdict of an answer, after the cache has learnt from it.
func (c *Checker) judge(key string, answer *pb.ValidateTokenResponse, requirement *Requirement, begun time.Duration) Check {
	verdict := verdictOf(answer.GetVerdict())
	entry := c.learn(key, answer, verdict, begun)
	switch {
	case verdict != Allow:
		return Check{Verdict: verdict, MissingScopes: answer.GetMissingScopes()}
	case answer.Token == nil:
		return Check{Verdict: Undetermined}
	case requirement.Tenant != "" && answer.Token.GetTenant() != requirement.Tenant:
		// A server that does not know the field answers ALLOW. An entry says nothing about further tenants.
		if !slices.Contains(answer.Token.GetTenants(), requirement.Tenant) {
			return Check{Verdict: WrongTenant}
		}
		entry = nil
	}
	return Check{Verdict: Allow, Identity: identityOf(answer.Token), Entry: entry}
}

func (c *Checker) learn(key string, answer *pb.ValidateTokenResponse, verdict Verdict, since time.Duration) *Entry {
	if c.cache == nil || answer.Entry == nil {
		return nil
	}
	version := Version{string(answer.Entry.GetEpoch()), answer.Entry.GetPosition()}
	switch verdict {
	case InvalidToken:
		c.cache.StoreRefusal(key, version, since)
		return nil
	case Allow, InsufficientScope, WrongAudience:
	default:
		return nil
	}
	// Without a tag no change would reach it.
	if answer.Token == nil || len(answer.Entry.GetTags()) == 0 {
		return nil
	}
	identity := identityOf(answer.Token)
	entry := &Entry{
		Version: version, Tags: answer.Entry.GetTags(), Identity: identity,
		Facts: Facts{identity.Scopes, identity.Audiences, identity.Expire, timeOf(answer.Entry.NotBeforeTime)},
	}
	c.cache.Store(key, entry, since)
	return entry
}

func verdictOf(verdict pb.Verdict) Verdict {
	switch verdict {
	case pb.Verdict_VERDICT_ALLOW:
		return Allow
	case pb.Verdict_VERDICT_INVALID_TOKEN:
		return InvalidToken
	case pb.Verdict_VERDICT_INSUFFICIENT_SCOPE:
		return InsufficientScope
	case pb.Verdict_VERDICT_WRONG_AUDIENCE:
		return WrongAudience
	case pb.Verdict_VERDICT_ADDRESS_NOT_ALLOWED:
		return AddressNotAllowed
	case pb.Verdict_VERDICT_RATE_LIMITED:
		return RateLimited
	case pb.Verdict_VERDICT_WRONG_TENANT:
		return WrongTenant
	default:
		return Undetermined
	}
}

func identityOf(token *pb.ValidatedToken) *Identity {
	return &Identity{
		TokenID: token.GetId(), Tenant: token.GetTenant(), Principal: token.GetPrincipal(), Profile: token.GetProfile(),
		Scopes: token.GetScopes(), Audiences: token.GetAudiences(), Expire: timeOf(token.GetExpireTime()),
		Annotations: token.GetAnnotations(),
	}
}

func timeOf(stamp *timestamppb.Timestamp) time.Time {
	if stamp == nil {
		return time.Time{}
	}
	return stamp.AsTime()
}
