package sallyport

import (
	"context"

	"google.golang.org/grpc"
	"google.golang.org/grpc/metadata"
)

// Stream returns the interceptor of streams. It checks a stream at its start and guards it to its end.
func (a *Auth) Stream() grpc.StreamServerInterceptor {
	return func(server any, stream grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) error {
		requirement := a.Requirements.Of(info.FullMethod)
		if requirement.Public {
			return handler(server, stream)
		}
		admitted, token, check := a.admit(stream.Context(), info.FullMethod, &requirement)
		if check.Verdict != Allow {
			return refuse(stream, check.Verdict)
		}
		ctx, cancel := context.WithCancel(admitted)
		defer cancel()
		origin, ended := a.origin(stream.Context(), info.FullMethod), make(chan Verdict, 1)
		g := &guard{
			cache: a.Checker.cache, requirement: &requirement,
			clock: guardClock{a.Checker.mono, afterFunc},
			check: func(done func(Check)) {
				go func() { done(a.Checker.Check(ctx, token, &requirement, origin)) }()
			},
			end: func(verdict Verdict) { ended <- verdict },
		}
		g.start(check)
		defer g.close()
		done := make(chan outcome, 1)
		go func() {
			var end outcome
			defer func() {
				end.panicked = recover()
				done <- end
			}()
			end.err = handler(server, &guardedStream{stream, ctx, g})
		}()
		over := make(chan outcome, 1)
		for {
			select {
			case end := <-done:
				// The status waits for a suspended stream as a message does.
				g.pass(func() { over <- end })
			case end := <-over:
				if end.panicked != nil {
					panic(end.panicked) // here, where the server's own interceptors can recover
				}
				return end.err
			case verdict := <-ended:
				if hook := a.Checker.options.Hooks.StreamEnded; hook != nil {
					hook(verdict)
				}
				return refuse(stream, verdict)
			}
		}
	}
}

type outcome struct {
	err      error
	panicked any
}

func refuse(stream grpc.ServerStream, verdict Verdict) error {
	stream.SetTrailer(metadata.Pairs(VerdictTrailer, string(verdict)))
	return RefusalOf(verdict).Err()
}

// guardedStream passes messages when its guard does.
type guardedStream struct {
	grpc.ServerStream
	ctx   context.Context
	guard *guard
}

func (s *guardedStream) Context() context.Context { return s.ctx }

func (s *guardedStream) SendMsg(message any) error {
	if err := s.wait(); err != nil {
		return err
	}
	return s.ServerStream.SendMsg(message)
}

func (s *guardedStream) RecvMsg(message any) error {
	if err := s.ServerStream.RecvMsg(message); err != nil {
		return err
	}
	return s.wait()
}

// wait returns when a message may pass, or with an error when the stream is over.
func (s *guardedStream) wait() error {
	passed := make(chan struct{})
	s.guard.pass(func() { close(passed) })
	select {
	case <-passed:
		return nil
	case <-s.ctx.Done():
		return s.ctx.Err()
	}
}
