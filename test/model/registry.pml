/* Who must have acknowledged before a revoke returns OK (revocation, sections 4.1, 4.2, 4.5, 4.6): registration,
 * joining during a revoke, reaping and burial, change of epoch and `settled`, a failover that loses registrations.
 *
 * Checked: no ALLOW by a call that started after a revoke returned OK. Calls are instantaneous here and may use any
 * positive row that was ever readable, in any epoch: whatever L1, Redis or a shared read can hold. What happens inside
 * a call is revocation.pml's. Where a later observation only makes a writer wait longer, the model takes the earliest.
 * A mutant is one define (M11, M12, M13, M15, R35, EARLY). WITNESS_* asserts that a useful state does not exist.
 */
#include "clock.pml"
#ifndef EPOCHS
#define EPOCHS 2     /* lives of the PostgreSQL server: restarts and failovers, plus one */
#endif
#ifndef CHANGES
#define CHANGES 1    /* changes of authority of other keys */
#endif
#define BURY_AFTER(b) (2 * (b))

/* PostgreSQL: the live primary is epoch `now`; what earlier lives showed is history that caches may still hold. */
byte now;
byte head[EPOCHS];
byte revokedAt[EPOCHS];   /* position of the token's revocation, 0 while it is good */
bool settled = true;      /* rev_state.settled = now */
byte changes = CHANGES;   /* still to come, see Change */
#define ABSENT 0
#define LIVE   1
#define REAPED 2
byte row[N];              /* validators, by process: a new registration replaces the old one, uuid and all */
byte rowEpoch[N];
byte rowAck[N];           /* applied_n + 1, so 0 is -1 */
byte rowBound[N];

/* A validator; its lease is in clock.pml. Each process has a bound <= L. */
byte epoch[N];
byte applied[N];          /* + 1, so 0 is -1 */
byte deny[N];
byte bound[N];

/* The process that revokes and keeps house; its clock is the fast one. */
bool waiting;
byte waited;              /* mono() - w */
byte seenReaped[N];       /* ticks since it saw the row reaped, + 1; 0 = not reaped */
byte seenEpoch;           /* mono() - sawEpoch, while not settled */
bool revokeReturnedOk;    /* history */

#define AGED(p) (seenReaped[p] > 0 && seenReaped[p] <= BURY_AFTER(L) -> seenReaped[p] + 1 : seenReaped[p])
active proctype Clock() {
  byte p;
end: do
  :: atomic {
       waited = (waiting && waited < WAIT(L) -> waited + 1 : waited);
       seenEpoch = (!settled && seenEpoch < WAIT(L) -> seenEpoch + 1 : seenEpoch);
       for (p : 0 .. N - 1) { seenReaped[p] = AGED(p); tick(p) }
       p = 0
     }
  od
}

/* 4.1 Boot, register, stop; 4.2 Poll, one in flight. */
inline pollOver() { inFlight[p] = false; age[p] = 0; qEpoch = 0; qn = 0; qRow = 0; qLive = false }
inline apply() {
  deny[p] = MAX(deny[p], qRow);
  applied[p] = qn + 1;
  lease[p] = MAX(lease[p], bound[p] - age[p])     /* leaseUntil = max(leaseUntil, t + bound) */
}
proctype Follow(byte p) {
  byte qEpoch, qn, qRow; bool qLive;
boot:                                             /* a new process (or the first): nothing survives in memory */
  atomic {
    epoch[p] = now; applied[p] = 0; deny[p] = 0; lease[p] = 0;
    select(qn : 1 .. L); bound[p] = qn; qn = 0    /* configured; fixed for its registrations */
  };
#ifdef M11
  goto poll;                                      /* M11: polls first, and takes a lease, before it registers */
#endif
register:                                         /* the lease was dropped in the tick that led here */
  atomic {                                        /* one transaction: DELETE own old row, INSERT a new uuid */
    row[p] = LIVE; rowEpoch[p] = epoch[p]; rowAck[p] = 0; rowBound[p] = bound[p]; seenReaped[p] = 0
  };
poll: end: do
  :: d_step { age[p] = 0; inFlight[p] = true };   /* t = mono(), BEFORE the send, after the INSERT's ack */
     d_step {                                     /* ONE statement */
       qEpoch = now; qn = head[now];
       qRow = (revokedAt[now] + 1 > applied[p] -> revokedAt[now] : 0);
       qLive = (row[p] == LIVE && rowEpoch[p] == epoch[p])
     };
     if
     :: d_step { pollOver() }                     /* failed, or over 500 ms */
     :: d_step { qEpoch != epoch[p] ->            /* epoch changed: only a poll decides it */
          lease[p] = 0; deny[p] = 0; applied[p] = 0; epoch[p] = qEpoch; pollOver()
        } -> goto register
     :: d_step { qEpoch == epoch[p] && !qLive ->  /* row not live: register */
#ifdef M11
          apply();
#else
          lease[p] = 0;
#endif
          pollOver()
        } -> goto register
     :: d_step { qEpoch == epoch[p] && qLive -> apply(); pollOver() }
     fi
  :: goto boot                                    /* crash and restart; its old row was a corpse for a while */
  :: d_step { lease[p] = 0; row[p] = ABSENT; seenReaped[p] = 0 } -> goto boot   /* stop: DELETE own row */
  od
}
/* ... then, while acked < applied: UPDATE validators ... WHERE id = me AND epoch = epoch AND reaped_at IS NULL. */
proctype Ack(byte p) {
end: do
  :: d_step { row[p] == LIVE && rowEpoch[p] == epoch[p] && rowAck[p] < applied[p] -> rowAck[p] = applied[p] }
  od
}

/* 4.3, 4.4: a call that starts, finds entry (e, n) and answers, in one tick. */
#ifdef M15
#define SAME_EPOCH(p, e) true                     /* M15: an entry of another epoch is used */
#else
#define SAME_EPOCH(p, e) ((e) == epoch[p])
#endif
#define USABLE(p, e, n) (SAME_EPOCH(p, e) && lease[p] > 0 && (n) >= deny[p])
#define WAS_GOOD(e, n) ((e) <= now && (n) <= head[e] && (revokedAt[e] == 0 || (n) < revokedAt[e]))
proctype Validate(byte p) {
  byte e, n;
end: do
  :: atomic {
       select(e : 0 .. now); select(n : 0 .. head[e]);
       if
       :: WAS_GOOD(e, n) && USABLE(p, e, n) ->
          assert(!revokeReturnedOk);
#ifdef WITNESS_ALLOW_AFTER_FAILOVER
          assert(!(epoch[p] > 0));
#endif
#ifdef WITNESS_ALLOW_STALE
          assert(!(revokedAt[now] > 0 && row[p] == REAPED));   /* lawful: reaped by a wrong guess, revoke still waits */
#endif
       :: else
       fi;
       e = 0; n = 0
     }
  od
}

/* 4.5 Change authority: the wait. Its crash and its repetition: revocation.pml. */
#ifdef M12
#define SETTLED true                              /* M12: acks believed before the epoch is settled */
#else
#define SETTLED settled
#endif
#ifdef M13
#define LONG_REAPED(p) (row[p] == REAPED)         /* M13: a reaped row is ignored at once */
#else
#define LONG_REAPED(p) (row[p] == REAPED && seenReaped[p] > WAIT(rowBound[p]))
#endif
#define ACKED(p) (rowEpoch[p] == e0 && rowAck[p] > n)
#define MISSING(p) (row[p] != ABSENT && !ACKED(p) && !LONG_REAPED(p))
inline returnOk() { revokeReturnedOk = true; waiting = false; waited = 0; n = 0; e0 = 0 }
proctype Revoke() {
  byte n, e0, p, longest;
again:
  atomic {                                        /* tx; E0 read inside; w at its ack; n at the lowest it can be */
    if
    :: revokedAt[now] == 0 -> head[now]++; revokedAt[now] = head[now]
    :: else                                       /* survived the failover, or done before: waits just the same */
    fi;
    e0 = now; n = head[now];
    waiting = true; waited = 0
  };
  do
  :: atomic { now != e0 -> waiting = false; waited = 0; e0 = 0; n = 0 } -> goto again
  :: atomic { now == e0 ->                        /* a = ONE statement, sent after w */
       longest = 0;
       for (p : 0 .. N - 1) { longest = (MISSING(p) -> MAX(longest, rowBound[p]) : longest) }
       p = 0;
       if
       :: SETTLED && longest == 0 ->              /* nothing missing: OK {ACKED} */
#ifdef WITNESS_OK_ACKED
          assert(!(row[0] == LIVE && lease[0] > 0));
#endif
#ifdef WITNESS_OK_ACKED_AFTER_FAILOVER
          assert(!(row[0] == LIVE && lease[0] > 0 && e0 > 0));
#endif
#ifdef WITNESS_OK_LONG_REAPED
          assert(row[0] != REAPED);
#endif
#ifdef WITNESS_OK_BURIED
          assert(!(row[0] == ABSENT && applied[0] > 0));
#endif
          longest = 0; returnOk(); break
       :: waited >= WAIT(SETTLED -> longest : L) ->   /* OK {LEASE_EXPIRED}; settled: by the bounds of the missing */
#ifdef WITNESS_OK_SHORT_BOUND
          assert(!(longest > 0 && waited < WAIT(L)));
#endif
#ifdef WITNESS_OK_UNSETTLED
          assert(settled);
#endif
          longest = 0; returnOk(); break
       :: else                                    /* wait on */
       fi;
       longest = 0
     }
  :: atomic { waited >= WAIT(L) && revokedAt[now] > 0 -> returnOk(); break }   /* PostgreSQL does not answer: by time */
  od;
end: skip
}

/* 4.6 Housekeeping. Anyone may reap wrongly at any time: heartbeats are not modelled. */
proctype Keep(byte p) {
end: do
  :: d_step { row[p] == LIVE -> row[p] = REAPED; seenReaped[p] = 1 }
#ifdef R35
  :: d_step { row[p] == REAPED -> row[p] = ABSENT; seenReaped[p] = 0 }   /* R35: the corpse is forgotten early */
#else
  :: d_step { row[p] == REAPED && seenReaped[p] > BURY_AFTER(rowBound[p]) -> row[p] = ABSENT; seenReaped[p] = 0 }
#endif
  od
}
active proctype Settle() {
end: do
  :: d_step { !settled && seenEpoch >= WAIT(L) -> settled = true; seenEpoch = 0 }
  od
}

/* A restart or failover begins a new epoch. An asynchronous standby may have missed registrations and commits, but not
 * a change that was answered OK: promise (b) of section 1. Deposed primaries are fenced: promise (d). */
active proctype Failover() {
  byte p, kept;
end: do
  :: atomic { now < EPOCHS - 1 ->
       kept = (revokeReturnedOk -> revokedAt[now] : 0);
       do
       :: kept < head[now] -> kept++
       :: break
       od;
       head[now + 1] = kept;
       revokedAt[now + 1] = (revokedAt[now] <= kept -> revokedAt[now] : 0);
       now++; settled = false; seenEpoch = 0; p = 0;
       do
       :: p < N -> row[p] = ABSENT; seenReaped[p] = 0; p++               /* its registration is lost */
       :: p < N -> seenReaped[p] = (row[p] == REAPED -> 1 : 0); p++      /* kept; seen in this epoch from now */
       :: p == N -> break
       od;
       p = 0; kept = 0
     }
  od
}

active proctype Change() {                        /* of other keys */
end: do
  :: d_step { changes > 0 -> changes--; head[now]++ }
  od
}

init {
  byte p;
  atomic {
    for (p : 0 .. N - 1) { run Follow(p); run Ack(p); run Keep(p); run Validate(p) }
    run Revoke();
    p = 0
  }
}
