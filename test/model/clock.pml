/* Time, for both models: included, not run. Leases, polls in flight and waits are counted in ticks left or passed, and
 * saturate where the protocol stops comparing: so time is unbounded and the state space finite. The clocks of those who
 * wait are the fast ones, those of lease holders may lag by the margin: promise (c) at its worst. */
#ifndef N
#define N 1          /* validators: processes with a cache */
#endif
#ifndef L
#define L 2          /* the longest lease, in ticks of a validator's clock */
#endif
#ifndef EARLY
#define EARLY 0      /* a mutant: every wait ends a tick early, so no slack in the model can hide other faults */
#endif
#ifdef M9
#define K 1          /* M9: clocks at half rate ... */
#define WAIT(b) (b)  /* ... and writers that allow no margin for it */
#endif
#ifndef K
#define K 2          /* a validator's clock may lose one tick in K + 1: the rate margin rho */
#endif
#ifndef WAIT         /* b(1+rho)+delta on the clock of a writer; ticks are exact, so delta is 0 */
#define WAIT(b) ((b) + ((b) + K - 1) / K - EARLY)
#endif
#define MAX(a, b) ((a) > (b) -> (a) : (b))

byte lease[N];       /* ticks left: leaseUntil - mono() */
byte age[N];         /* of the poll in flight: mono() - t */
bool inFlight[N];
byte lost[N];        /* ticks since this clock last lost one */

/* One tick of real time on the clock of validator p. */
inline tick(p) {
  if
  :: lost[p] >= K -> lost[p] = 0                  /* it loses this one */
  :: lost[p] = (lost[p] < K -> lost[p] + 1 : K);
     lease[p] = (lease[p] > 0 -> lease[p] - 1 : 0);
     age[p] = (inFlight[p] && age[p] < L -> age[p] + 1 : age[p])
  fi
}
