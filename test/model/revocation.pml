/* The base model of the revocation protocol (revocation, sections 4.2 to 4.5): polls, leases, the use rule, the wait.
 *
 * Checked: (A) no ALLOW by a call that started after a revoke returned OK; (B) in one process, no ALLOW by a call that
 * started after a refusal ended. One token, one dependency key, all processes registered and settled throughout;
 * joining, reaping and epochs are registry.pml's. Crash and SIGSTOP need no statement of their own: a process that is
 * never scheduled again has crashed, one that is scheduled late was paused, and Clock runs on.
 * A mutant is one define (M1 to M10, M18, M31, M35, R33, EARLY). WITNESS_* asserts that a useful state does not exist.
 */
#include "clock.pml"
#ifndef CALLS
#define CALLS 1      /* concurrent calls of each validator */
#endif
#ifndef REVOKERS
#define REVOKERS 2   /* the revoke and its concurrent retry */
#endif
#ifndef CHANGES
#define CHANGES 1    /* changes of authority that concern other keys, but move the position */
#endif
#define NONE 255

/* PostgreSQL, the only authority. */
byte head;           /* rev_head.n */
byte revokedAt;      /* position of the token's revocation, 0 while it is good */
byte logFloor;       /* rev_state.floor_n */
byte pruned;         /* log rows with n <= pruned are deleted */
byte changes = CHANGES;   /* still to come, see Change */
byte ackRow[N];      /* validators.applied_n */

/* A validator; its lease is in clock.pml. */
byte applied[N];
byte deny[N];        /* deny map: the one key, 0 = no entry */
byte floor[N];
byte L1[N];          /* label of the cached positive, or NONE */
bool refused[N];     /* history: a call of this process has refused */
#ifdef M8
bool leaseFlag[N];   /* M8: a flag that a timer clears, instead of comparing clocks */
#define LEASED(p) leaseFlag[p]
#else
#define LEASED(p) (lease[p] > 0)
#endif

/* The writers. */
bool waiting[REVOKERS];
byte waited[REVOKERS];   /* mono() - w */
bool revokeReturnedOk;   /* history: a revoke has returned OK */

/* 4.3 Use rule: the only listener to a cached answer. */
#ifdef M1
#define LEASE_HELD(p) true
#else
#define LEASE_HELD(p) LEASED(p)
#endif
#define FRESH(p, n)  ((n) >= floor[p] && (n) >= deny[p])
#define USABLE(p, n) (LEASE_HELD(p) && FRESH(p, n))
#ifdef M6            /* M6: polls evict what they deny, so L1 "needs no check", nor does the fill */
#define L1_USABLE(p) LEASE_HELD(p)
#define FILLABLE(p, n) LEASE_HELD(p)
#else
#define L1_USABLE(p) USABLE(p, L1[p])
#define FILLABLE(p, n) USABLE(p, n)
#endif
#ifdef M5            /* M5: an L2 positive is believed under a lease alone */
#define L2_USABLE(p, n) LEASE_HELD(p)
#elif defined(SURVIVES_R12)   /* R12: the lease as it was before the I/O; harmless, must survive */
#define L2_USABLE(p, n) (leasedAtSend && FRESH(p, n))
#else
#define L2_USABLE(p, n) USABLE(p, n)
#endif

inline allow() {
  assert(!startedAfterOk);        /* (A) */
#ifndef ONLY_A                    /* to show that a mutant breaks (A) itself, where it breaks (B) sooner */
  assert(!startedAfterRefusal);   /* (B) */
#endif
}

active proctype Clock() {
  byte i, p;
end: do
  :: atomic {
       for (i : 0 .. REVOKERS - 1) { waited[i] = (waiting[i] && waited[i] < WAIT(L) -> waited[i] + 1 : waited[i]) }
       for (p : 0 .. N - 1) { tick(p) }
       i = 0; p = 0
     }
  od
}

/* 4.2 Poll. A reply may be lost at any point; a destroyed connection's replies are ignored. */
inline grant(p) {
#ifdef M2
  lease[p] = L;                                   /* M2: the lease counts from the receipt */
#else
  lease[p] = MAX(lease[p], L - age[p]);           /* leaseUntil = max(leaseUntil, t + L), t before the send */
#endif
#ifdef M8
  leaseFlag[p] = leaseFlag[p] || lease[p] > 0;
#endif
}
inline apply(p) {
#ifdef M35
  floor[p] = qFloor;                               /* M35: the floor is lowered again */
#else
  floor[p] = MAX(floor[p], qFloor);
#endif
  applied[p] = qn;
  deny[p] = (deny[p] <= floor[p] -> 0 : deny[p]);  /* forget deny rows <= floor */
#ifdef M6
  L1[p] = (L1[p] != NONE && !FRESH(p, L1[p]) -> NONE : L1[p]);
#endif
  grant(p)
}
inline dropLease(p) {
  lease[p] = 0;
#ifdef M8
  leaseFlag[p] = false
#endif
}
inline pollOver(p) { inFlight[p] = false; age[p] = 0; qn = 0; qRow = 0; qFloor = 0 }
proctype Poll(byte p) {
  byte qn, qRow, qFloor;
end: do
  :: d_step { age[p] = 0; inFlight[p] = true };    /* t = mono(), BEFORE the send */
     atomic {                                      /* ONE statement, on the primary */
       qn = head; qFloor = logFloor;
#ifdef M7
       select(qn : applied[p] .. head);            /* M7: or on a replica, which lags */
#endif
       qRow = (revokedAt > pruned && revokedAt > applied[p] && revokedAt <= qn -> revokedAt : 0)
     };
#ifdef M10
     ackRow[p] = MAX(ackRow[p], qn);               /* M10: acknowledged before it is applied */
#endif
     if                                            /* the tick of its reply */
     :: d_step { deny[p] = MAX(deny[p], qRow); apply(p); pollOver(p) }
     :: d_step { qRow > 0 -> floor[p] = MAX(floor[p], qRow); apply(p); pollOver(p) }    /* cap: a floor */
     :: d_step { dropLease(p); pollOver(p) }       /* it was answered in recovery: drop the lease */
     :: d_step { pollOver(p) }                     /* it failed, or took over 500 ms */
     fi
  od
}
/* ... then, while acked < applied: UPDATE validators. */
proctype Ack(byte p) {
end: do
  :: d_step { ackRow[p] < applied[p] -> ackRow[p] = applied[p] }
#ifdef M8
  :: d_step { leaseFlag[p] && lease[p] == 0 -> leaseFlag[p] = false }   /* the timer fires, some time */
#endif
  od
}

/* 4.4 Validate. Redis is an adversary: a GET answers any positive that could ever have been sealed, that is, of any
 * position at which the token was good (the seal stops the rest), as late as it likes; that covers late fills. */
#ifdef M31
byte filled;         /* M31: the writer of a widening fills L2 with its own material under a later position (R41) */
#define WAS_GOOD(n) (revokedAt == 0 || (n) < revokedAt || (n) == filled)
#else
#define WAS_GOOD(n) (revokedAt == 0 || (n) < revokedAt)
#endif
#ifdef SURVIVES_R12
#define SAMPLE_LEASE(p) leasedAtSend = LEASED(p)
#else
#define SAMPLE_LEASE(p) skip
#endif
inline callOver() { startedAfterOk = false; startedAfterRefusal = false; leasedAtSend = false; good = false; r = 0 }
proctype Validate(byte p) {
  bool startedAfterOk, startedAfterRefusal, leasedAtSend, good;
  byte r;
end: do
  :: atomic {                                      /* the call starts here; L1 in the same tick */
       startedAfterOk = revokeReturnedOk; startedAfterRefusal = refused[p];
       if
       :: L1[p] != NONE && L1_USABLE(p) -> allow();
#ifdef WITNESS_ALLOW_L1
          assert(revokedAt == 0);                  /* stale, cached and lawful: between the commit and OK */
#endif
          callOver()
       :: LEASED(p) -> L1[p] = NONE; SAMPLE_LEASE(p); goto get   /* evicted; an unusable entry counts as none */
       :: L1[p] = NONE; goto read
       fi
     }
  :: false ->
get: atomic {                                      /* lease held: GET; its reply, any time later */
       select(r : 0 .. head);
       if
       :: WAS_GOOD(r) && L2_USABLE(p, r) -> L1[p] = r; allow();
#ifdef WITNESS_ALLOW_L2
          assert(revokedAt == 0);
#endif
          callOver()
       :: r = 0; goto read                         /* Redis down, miss, bad seal, unusable */
       fi
     }
  :: false ->
read:
     atomic {                                               /* own read: ONE statement on the primary */
       r = head;
#ifdef M7
       select(r : 0 .. head);                               /* M7: or on a replica, which lags */
#endif
       good = (revokedAt == 0 || r < revokedAt)
     };
     atomic {
       if
       :: skip                                              /* no answer, or in recovery: UNDETERMINED */
       :: !good ->
#ifndef R33
          deny[p] = MAX(deny[p], r);                        /* keeps this process monotone (R33) */
#endif
          refused[p] = true;
#ifdef WITNESS_REFUSE
          assert(applied[p] >= revokedAt);                  /* refused, and denied, before its own poll has seen n */
#endif
       :: good ->
          if
          :: FILLABLE(p, r) -> L1[p] = r                    /* deciding needs no lease, caching does */
          :: else
          fi;
          allow()
       fi;
       callOver()
     }
  od
}

/* 4.5 Change authority. A revoker that crashes takes no further step; its retry (or the concurrent second call) is the
 * other instance of this process, and finds the change done: it waits just the same. */
#define ALL_ACKED(n) (ackRow[0] >= (n) && ackRow[N - 1] >= (n))   /* N is 1 or 2 */
inline returnOk() { revokeReturnedOk = true; waiting[w] = false; waited[w] = 0; n = 0 }
proctype Revoke(byte w) {
  byte n;
again:
  atomic {                                         /* tx: change and log row, one COMMIT; w = mono() at its ack */
    if
    :: revokedAt == 0 -> head++; revokedAt = head
#ifdef M4
    :: revokedAt != 0 -> returnOk(); goto end      /* M4: "already revoked, so OK" */
#else
    :: revokedAt != 0                              /* nothing left to change, and it waits just the same */
#endif
    fi;
#ifdef M3
    returnOk(); goto end;                          /* M3: OK at the commit */
#endif
    waiting[w] = true; waited[w] = 0
  };
  n = head;                                        /* n = head of the first answer */
  if
  :: atomic { ALL_ACKED(n) ->                      /* ONE statement, sent after w: nothing missing: OK {ACKED} */
#ifdef WITNESS_OK_ACKED
       assert(lease[0] == 0);                      /* acknowledged, and the validator still works from its cache */
#endif
       returnOk()
     }
  :: atomic { waited[w] >= WAIT(L) ->                    /* by time, whoever is missing: OK {LEASE_EXPIRED} */
#ifdef WITNESS_OK_LEASE_EXPIRED
       assert(ALL_ACKED(n));
#endif
       returnOk()
     }
  :: d_step { waiting[w] = false; waited[w] = 0; n = 0 } -> goto again   /* outcome unknown: the caller repeats */
  fi;
end: skip
}

/* Changes that take nothing from this token: other keys, a widening. */
active proctype Change() {
end: do
  :: d_step { changes > 0 -> changes--; head++ }
#ifdef M31
  :: d_step { changes < CHANGES && filled == 0 -> filled = head }
#endif
  od
}

/* 4.6 Prune: the floor is committed before the rows go. */
active proctype Prune() {
  byte upTo;
end: do
  :: d_step { pruned < head -> upTo = head };
#ifndef M18
     logFloor = upTo;
#endif
     d_step { pruned = upTo; upTo = 0 }
  od
}

init {
  byte p, c;
  atomic {
    for (p : 0 .. N - 1) {
      L1[p] = NONE;
      run Poll(p); run Ack(p);
      for (c : 1 .. CALLS) { run Validate(p) }
    }
    for (p : 0 .. REVOKERS - 1) { run Revoke(p) }
    p = 0; c = 0
  }
}
