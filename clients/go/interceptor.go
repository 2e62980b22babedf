package sallyport

import (
	"context"
	"net"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
)

// Auth checks each call before its handler starts.
type Auth struct {
	Checker      *Checker
	Requirements Requirements
	// ClientAddress is for services behind a proxy; nil: the connection's peer.
	ClientAddress func(ctx context.Context) string
}

type identityKey struct{}

// IdentityOf returns the identity that admitted a call, in its handler; nil for a public method.
func IdentityOf(ctx context.Context) *Identity {
	identity, _ := ctx.Value(identityKey{}).(*Identity)
	return identity
}

// Unary returns the interceptor of unary calls. The handler gets the identity, never the credential.
func (a *Auth) Unary() grpc.UnaryServerInterceptor {
	return func(ctx context.Context, request any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (any, error) {
		requirement := a.Requirements.Of(info.FullMethod)
		if requirement.Public {
			return handler(ctx, request)
		}
		admitted, _, check := a.admit(ctx, info.FullMethod, &requirement)
		if check.Verdict != Allow {
			_ = grpc.SetTrailer(ctx, metadata.Pairs(VerdictTrailer, string(check.Verdict)))
			return nil, RefusalOf(check.Verdict).Err()
		}
		return handler(admitted, request)
	}
}

// admit checks the call of a context, and returns the handler's context and the credential.
func (a *Auth) admit(ctx context.Context, method string, requirement *Requirement) (context.Context, string, Check) {
	incoming, _ := metadata.FromIncomingContext(ctx)
	token, ok := bearerOf(incoming.Get("authorization"))
	if !ok {
		if hook := a.Checker.options.Hooks.Checked; hook != nil {
			hook(NoCredential, "offline", 0)
		}
		return ctx, "", Check{Verdict: NoCredential}
	}
	check := a.Checker.Check(ctx, token, requirement, a.origin(ctx, method))
	stripped := incoming.Copy()
	stripped.Delete("authorization")
	admitted := context.WithValue(metadata.NewIncomingContext(ctx, stripped), identityKey{}, check.Identity)
	return admitted, token, check
}

func (a *Auth) origin(ctx context.Context, method string) Origin {
	if a.ClientAddress != nil {
		return Origin{a.ClientAddress(ctx), method}
	}
	if from, ok := peer.FromContext(ctx); ok {
		if host, _, err := net.SplitHostPort(from.Addr.String()); err == nil {
			return Origin{host, method}
		}
	}
	return Origin{Path: method}
}

// bearerOf returns the token string of authorization values; false if there is not exactly one, of the scheme Bearer.
func bearerOf(values []string) (string, bool) {
	if len(values) != 1 {
		return "", false
	}
	scheme, rest, _ := strings.Cut(values[0], " ")
	token := strings.Trim(rest, " ")
	if !strings.EqualFold(scheme, "bearer") || token == "" || strings.ContainsAny(token, " \t,") {
		return "", false
	}
	return token, true
}
