package sallyport

import (
	"fmt"
	"regexp"
	"strings"
)

// Requirement is what a method demands of a token. The zero value demands a live token.
type Requirement struct {
	// Public methods need no token; the other fields are ignored.
	Public bool
	// Scopes that the token must have, all of them; exact scopes, at most 32.
	Scopes []string
	// Audience that must be among the token's, unless the token has none.
	Audience string
	// Tenant in which the token must be live: its own, or one that it is attached to.
	Tenant string
}

// Requirements maps a full method (orders.v1.Orders/Get) or all methods of a service (orders.v1.Orders/*) to its
// requirement. A method that is not listed needs a live token; only health checks are public by themselves.
type Requirements map[string]Requirement

var methodKey = regexp.MustCompile(`^[A-Za-z_][\w.]*/(\*|[A-Za-z_]\w*)$`)

// Check returns an error if a key is no method, or a requirement is one that the server would refuse.
func (r Requirements) Check() error {
	for method, rule := range r {
		switch {
		case !methodKey.MatchString(method):
			return fmt.Errorf("%q is no method: write package.Service/Method or package.Service/*", method)
		case len(rule.Scopes) > 32:
			return fmt.Errorf("%s requires more than 32 scopes", method)
		case len(rule.Audience) > 256:
			return fmt.Errorf("%s requires an audience of more than 256 characters", method)
		case len(rule.Tenant) > 63:
			return fmt.Errorf("%s requires a tenant of more than 63 characters", method)
		}
	}
	return nil
}

// Of returns the requirement of a method, with or without a slash before it.
func (r Requirements) Of(method string) Requirement {
	name := strings.TrimPrefix(method, "/")
	if rule, ok := r[name]; ok {
		return rule
	}
	service, _, _ := strings.Cut(name, "/")
	if rule, ok := r[service+"/*"]; ok {
		return rule
	}
	return Requirement{Public: service == "grpc.health.v1.Health"}
}
