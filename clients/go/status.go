package sallyport

import (
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// VerdictTrailer is the trailer that tells a client the verdict.
const VerdictTrailer = "sallyport-verdict"

var refusals = map[Verdict]*status.Status{
	NoCredential:      status.New(codes.Unauthenticated, "a bearer token is required"),
	InvalidToken:      status.New(codes.Unauthenticated, "the token is not valid"),
	WrongAudience:     status.New(codes.Unauthenticated, "the token is not for this service"),
	InsufficientScope: status.New(codes.PermissionDenied, "the token lacks a scope"),
	WrongTenant:       status.New(codes.PermissionDenied, "the token is not valid in this tenant"),
	AddressNotAllowed: status.New(codes.PermissionDenied, "the token is not accepted from this address"),
	RateLimited:       status.New(codes.ResourceExhausted, "too many requests with this token"),
	Undetermined:      status.New(codes.Unavailable, "the token cannot be checked now"),
}

// RefusalOf returns the status of every verdict but ALLOW. A verdict that this version does not know is an outage, never
// an allow. The message never says why a token is not live.
func RefusalOf(verdict Verdict) *status.Status {
	if refusal, ok := refusals[verdict]; ok {
		return refusal
	}
	return refusals[Undetermined]
}
