/* The change feed: a client's cache behind a server that registers, polls and acknowledges for it (sections 4.1, 4.2,
 * 4.5 and 4.6 for the server's row; clients/README.md for the feed).
 *
 * Checked: no ALLOW by a client's call that started after a revoke returned OK. Calls are instantaneous and may use any
 * row that was ever readable, in any epoch: whatever a client can hold. One token, one dependency key, so its tag and
 * the floor are one number here, `threshold`. Where a later step only makes a writer wait longer or a lease shorter,
 * the model takes the earliest: statements and requests arrive when they are sent, acknowledgements when they can be.
 * A poll or request that is lost, or answered too late, is one after which the next is sent.
 * A mutant is one define (M36 to M44, EARLY). WITNESS_* asserts that a useful state does not exist.
 */
#include "clock.pml"
#ifndef EPOCHS
#define EPOCHS 1     /* lives of the PostgreSQL server */
#endif
#ifndef CHANGES
#define CHANGES 0    /* changes of authority of other keys */
#endif
#ifndef BEFORE
#define BEFORE 0     /* such changes before the start: a failover can lose them too */
#endif
#ifndef RESTARTS
#define RESTARTS 0   /* the client's process may die and start again */
#endif
#ifndef REAPING
#define REAPING 0    /* rows may be reaped, by mistake too, and buried */
#endif
#ifndef CRASHES
#define CRASHES 0    /* the server may crash and start again */
#endif
#ifndef STOPS
#define STOPS 0      /* the server may stop and start again */
#endif
#define BURY_AFTER(b) (2 * (b))

/* PostgreSQL: the live primary is epoch `now`. */
byte now;
byte head[EPOCHS];
byte revokedAt[EPOCHS];   /* position of the token's revocation, 0 while it is good */
bool settled = true;
byte changes = CHANGES;   /* still to come */
#define ABSENT 0
#define LIVE   1
#define REAPED 2
#define OWN    0          /* the row of the server as it runs */
#define CORPSE 1          /* a row that it left behind: at most one at a time */
byte row[2];
byte rowEpoch[2];
byte rowAck[2];           /* applied_n + 1, so 0 is -1 */

/* The server. */
byte sEpoch;
byte sApplied;            /* + 1, so 0 is -1 */
byte sDeny;
byte sAge = L;            /* own clock now - send of the last granted poll; L: nothing granted, no lease to give */
byte sPollAge;            /* of its poll in flight */
bool stopping;
byte mAck;                /* the one member: the position it reported, + 1 ... */
byte mUntil;              /* ... and ticks of the server's clock until its leases are over; 0: it is no member */

/* The client; its lease and the age of its request are in clock.pml. */
byte cEpoch;
byte cPosition;           /* + 1, so 0 is -1: it knows no epoch */
byte threshold;           /* entries below are unusable: max(floor, changed[tag]) */
#define IDLE     0
#define HELD     1        /* the server has it */
#define ANSWERED 2
byte call;                /* the one request in flight carries cEpoch and cPosition, which only its answer changes */
byte ansEpoch, ansPosition, ansThreshold, ansLease;

/* The process that revokes and keeps house. */
bool waiting;
byte waited;              /* mono() - w */
byte seenReaped[2];       /* ticks since it saw the row reaped, + 1; 0 = not reaped */
byte seenEpoch;           /* mono() - sawEpoch, while not settled */
bool revokeReturnedOk;    /* history */

/* Own row := min(applied, ack of the members whose leases may last). */
#ifdef M38
#define REPORTED sApplied                         /* M38: acknowledged without the members */
#else
#define REPORTED (mUntil > 0 && mAck < sApplied -> mAck : sApplied)
#endif
inline ack() {
  rowAck[OWN] = (row[OWN] == LIVE && rowEpoch[OWN] == sEpoch && rowAck[OWN] < REPORTED -> REPORTED : rowAck[OWN])
}

/* Clocks. A lease is counted down by two of them, first as age at the server, then by the client. Each takes at most
 * (1+rho) of real time for its part, so both together lose at most one tick in K+1, whoever loses it. */
#define DOWN(x) (x > 0 -> x - 1 : 0)
#define AGED(r) (seenReaped[r] > 0 && seenReaped[r] <= BURY_AFTER(L) -> seenReaped[r] + 1 : seenReaped[r])
inline tickServer() {
  sAge = (sAge < L -> sAge + 1 : L);
  sPollAge = (sPollAge < L -> sPollAge + 1 : L);
  mUntil = DOWN(mUntil)
}
inline tickClient() {
  lease[0] = DOWN(lease[0]);
  age[0] = (call != IDLE && age[0] < L -> age[0] + 1 : age[0])
}
inline tickWriter() {
  waited = (waiting && waited < WAIT(L) -> waited + 1 : waited);
  seenEpoch = (!settled && seenEpoch < WAIT(L) -> seenEpoch + 1 : seenEpoch);
  seenReaped[OWN] = AGED(OWN); seenReaped[CORPSE] = AGED(CORPSE)
}
active proctype Clock() {
end: do
  :: d_step { tickWriter(); tickServer(); tickClient(); lost[0] = (lost[0] < K -> lost[0] + 1 : K); ack() }
  :: d_step { lost[0] >= K -> lost[0] = 0; tickWriter() }                       /* both lose it */
  :: d_step { lost[0] >= K -> lost[0] = 0; tickWriter(); tickServer(); ack() }  /* the client loses it */
  :: d_step { lost[0] >= K -> lost[0] = 0; tickWriter(); tickClient() }         /* the server does */
  od
}

/* The server's row: registration, polls, stop. */
inline forgetMember() { mUntil = 0; mAck = 0 }
inline clearRow(r) { row[r] = ABSENT; rowEpoch[r] = 0; rowAck[r] = 0; seenReaped[r] = 0 }
inline leaveCorpse() {
  row[CORPSE] = row[OWN]; rowEpoch[CORPSE] = rowEpoch[OWN];
  rowAck[CORPSE] = rowAck[OWN]; seenReaped[CORPSE] = seenReaped[OWN]
}
inline pollOver() { sPollAge = L; qEpoch = 0; qn = 0; qRow = 0; qLive = false; polling = false }
proctype Server() {
  byte qEpoch, qn, qRow; bool qLive, polling;
boot:                                             /* a new process: nothing survives in memory */
  atomic { sEpoch = now; sApplied = 0; sDeny = 0; sAge = L; stopping = false; forgetMember() };
register:                                         /* the lease was dropped in the tick that led here */
  atomic { mUntil == 0 || row[OWN] == ABSENT || row[CORPSE] == ABSENT ->
    if                                            /* one transaction, under a new uuid */
#ifndef M43                                       /* M43: the old row is deleted though a member may hold a lease */
    :: mUntil > 0 && row[OWN] != ABSENT ->        /* marked as reaped, not deleted */
       leaveCorpse();
       seenReaped[CORPSE] = (row[CORPSE] == LIVE -> 1 : seenReaped[CORPSE]);
       row[CORPSE] = REAPED
#endif
    :: else
    fi;
    row[OWN] = LIVE; rowEpoch[OWN] = sEpoch; rowAck[OWN] = 0; seenReaped[OWN] = 0;
    mUntil = 0                                    /* the member list starts empty */
  };
poll: end: do
  :: d_step {                                     /* ONE statement; the poll before it is over */
       sPollAge = 0; polling = true;              /* t = mono(), BEFORE the send */
       qEpoch = now; qn = head[now];
       qRow = (revokedAt[now] + 1 > sApplied -> revokedAt[now] : 0);
       qLive = (row[OWN] == LIVE && rowEpoch[OWN] == sEpoch)
     }
  :: atomic { polling && qEpoch != sEpoch ->      /* epoch changed: forget members, `settled` covers their leases */
       sAge = L; sDeny = 0; sApplied = 0; sEpoch = qEpoch; forgetMember(); pollOver()
     } -> goto register
  :: atomic { polling && qEpoch == sEpoch && !qLive -> sAge = L; pollOver() } -> goto register
  :: d_step { polling && qEpoch == sEpoch && qLive ->
       sDeny = MAX(sDeny, qRow); sApplied = qn + 1;
       sAge = (stopping -> L : sPollAge);         /* granted; no grant after stop */
       pollOver(); ack()
     }
#if CRASHES
  :: atomic { row[CORPSE] == ABSENT ->            /* crash: the row stays, held calls break */
       leaveCorpse(); clearRow(OWN); pollOver();
       call = (call == HELD -> IDLE : call); age[0] = (call == IDLE -> 0 : age[0])
     } -> goto boot
#endif
#if STOPS
  :: d_step { !stopping -> stopping = true; sAge = L }   /* stop: no more leases; acknowledging goes on */
#ifdef M44
  :: atomic { stopping -> clearRow(OWN); pollOver() } -> goto boot   /* M44: the row is deleted at stop, whoever holds a lease */
#else
  :: atomic { stopping && mUntil == 0 -> clearRow(OWN); pollOver() } -> goto boot
#endif
#endif
  od
}

/* The server answers a request that it holds. */
#ifdef M37
#define LEASE_TO_GIVE (sAge < L -> L : 0)         /* M37: the age of the poll is omitted */
#else
#define LEASE_TO_GIVE (L - sAge)
#endif
#define KNOWN (cPosition > 0 && cEpoch == sEpoch)
active proctype Answer() {
end: do
  :: d_step { call == HELD ->
       ansEpoch = sEpoch; ansPosition = sApplied;
       if
       :: !KNOWN -> mAck = 0; ansThreshold = DOWN(sApplied)       /* floor = applied, no tags */
       :: KNOWN && sDeny + 1 > cPosition -> ansThreshold = sDeny  /* a tag in (position, applied] */
       :: else -> ansThreshold = 0
       fi;
       ansLease = LEASE_TO_GIVE;
       mUntil = (ansLease > 0 -> MAX(mUntil, WAIT(ansLease)) : mUntil);
#ifdef M39
       mAck = sApplied; ack();                    /* M39: the answer counts as the acknowledgement */
#endif
       call = ANSWERED
     }
  od
}

/* The client: one request in flight. */
inline callOver() { call = IDLE; age[0] = 0; ansEpoch = 0; ansPosition = 0; ansThreshold = 0; ansLease = 0 }
proctype Client() {
end: do
  :: d_step {                                     /* the last one is done, or given up: a late answer is ignored */
#ifdef M42
       mUntil = (call != IDLE -> 0 : mUntil);     /* M42: a member is forgotten when its connection breaks */
#endif
       callOver();                                /* sent = mono(), BEFORE sending */
       mAck = (KNOWN -> cPosition : 0);           /* the position is the ack, never max */
       ack(); call = HELD
     }
#ifdef M40                                        /* M40: acknowledged, then applied */
  :: d_step { call == ANSWERED && cEpoch == ansEpoch && mAck < ansPosition -> mAck = ansPosition; ack() }   /* M40 */
#endif
  :: d_step { call == ANSWERED ->                 /* one step; the lease last */
       if
       :: ansEpoch != cEpoch -> lease[0] = 0; threshold = 0; cPosition = 0; cEpoch = ansEpoch
       :: else
       fi;
       threshold = MAX(threshold, ansThreshold);
       cPosition = MAX(cPosition, ansPosition);
#ifdef M36
       lease[0] = MAX(lease[0], ansLease);        /* M36: the lease counts from the receipt */
#else
       lease[0] = MAX(lease[0], ansLease - (age[0] < ansLease -> age[0] : ansLease));
#endif
       callOver()
     }
#if RESTARTS
  :: d_step {                                     /* a new process and cache_id; the old member is forgotten at its end */
       lease[0] = 0; threshold = 0; cPosition = 0; cEpoch = 0; forgetMember(); callOver()
     }
#endif
  od
}

/* A call at the client that starts, finds entry (e, n) and answers, in one tick. An older row is usable only where the
 * newest is, so only that one is tried. */
#ifdef M41
#define SAME_EPOCH(e) true                        /* M41: an entry of another epoch is used */
#else
#define SAME_EPOCH(e) ((e) == cEpoch)
#endif
#define BEST(e) (revokedAt[e] == 0 -> head[e] : revokedAt[e] - 1)   /* the newest row of that epoch that was good */
#define USABLE(e) ((e) <= now && SAME_EPOCH(e) && lease[0] > 0 && BEST(e) >= threshold)
active proctype Validate() {
end: do
  :: d_step { USABLE(0) || USABLE(EPOCHS - 1) ->  /* EPOCHS is 1 or 2 */
       assert(!revokeReturnedOk);
#ifdef WITNESS_ALLOW_STALE
       assert(revokedAt[now] == 0);               /* lawful: between the commit and OK */
#endif
#ifdef WITNESS_ALLOW_AFTER_FAILOVER
       assert(!(cEpoch > 0));
#endif
     }
  od
}

/* 4.5 Change authority: the wait. */
#define LONG_REAPED(r) (row[r] == REAPED && seenReaped[r] > WAIT(L))
#define MISSING(r) (row[r] != ABSENT && !(rowEpoch[r] == e0 && rowAck[r] > n) && !LONG_REAPED(r))
inline returnOk() { revokeReturnedOk = true; waiting = false; waited = 0; n = 0; e0 = 0 }
proctype Revoke() {
  byte n, e0;
again:
  atomic {                                        /* tx; E0 read inside; w at its ack; n at the lowest it can be */
    if
    :: revokedAt[now] == 0 -> head[now]++; revokedAt[now] = head[now]
    :: else                                       /* survived the failover */
    fi;
    e0 = now; n = head[now];
    waiting = true; waited = 0
  };
  do
  :: atomic { now != e0 -> waiting = false; waited = 0; e0 = 0; n = 0 } -> goto again
  :: atomic { now == e0 && settled && !MISSING(OWN) && !MISSING(CORPSE) ->   /* ONE statement: OK {ACKED} */
#ifdef WITNESS_OK_ACKED
       assert(!(lease[0] > 0 && row[OWN] == LIVE && mUntil > 0));
#endif
#ifdef WITNESS_OK_LONG_REAPED
       assert(row[CORPSE] != REAPED);
#endif
       returnOk(); break
     }
  :: atomic { waited >= WAIT(L) && revokedAt[now] > 0 ->   /* by time, whoever is missing, the commit not lost */
#ifdef WITNESS_OK_LEASE_EXPIRED
       assert(!MISSING(OWN));
#endif
       returnOk(); break
     }
  od;
end: skip
}

/* 4.6 Housekeeping. A wrong guess may reap any row at any time. */
#if REAPING
proctype Keep(byte r) {
end: do
  :: d_step { row[r] == LIVE -> row[r] = REAPED; seenReaped[r] = 1 }
  :: d_step { row[r] == REAPED && seenReaped[r] > BURY_AFTER(L) -> clearRow(r) }
  od
}
#endif

#if EPOCHS > 1
active proctype Settle() {
end: do
  :: d_step { !settled && seenEpoch >= WAIT(L) -> settled = true; seenEpoch = 0 }
  od
}
/* A new epoch may have lost registrations and commits, but no change that was answered OK. */
active proctype Failover() {
  byte r, kept;
end: do
  :: atomic { now < EPOCHS - 1 ->
       kept = (revokeReturnedOk -> revokedAt[now] : 0);
       do
       :: kept < head[now] -> kept++
       :: break
       od;
       head[now + 1] = kept;
       revokedAt[now + 1] = (revokedAt[now] <= kept -> revokedAt[now] : 0);
       now++; settled = false; seenEpoch = 0; r = 0;
       do
       :: r < 2 -> clearRow(r); r++                                      /* its registration is lost */
       :: r < 2 -> seenReaped[r] = (row[r] == REAPED -> 1 : 0); r++      /* kept; seen in this epoch from now */
       :: r == 2 -> break
       od;
       r = 0; kept = 0
     }
  od
}
#endif

#if CHANGES
active proctype Change() {                        /* of other keys */
end: do
  :: d_step { changes > 0 -> changes--; head[now]++ }
  od
}
#endif

init {
  atomic {
    head[0] = BEFORE;
    run Server(); run Client(); run Revoke();
#if REAPING
    run Keep(OWN); run Keep(CORPSE)
#endif
  }
}
