/*
 * Who may send? One operation that must not be executed twice, several hosts, one database, one
 * provider. Any host may be killed, stopped, continued and started again at any moment, and any
 * answer may be lost.
 *
 * In: the constants below. Out: Spin says whether the operation can be executed twice.
 *
 * README.md says what is left out, why that is sound, and how to run this file. Words: a *host* is
 * a machine with a process. A *life* is one lease of a host: it begins with a row of its own, and
 * ends when the process dies or learns that the lease is lost. A *commit* is a transaction on its
 * way: it is applied once, or never, or long after whoever sent it is dead.
 *
 * Time is a tick, which may come before any step: a host that does nothing for many ticks is
 * stopped, or slow. There is no clock, only ages: how long ago, how much longer. They stop counting
 * where nobody looks at them any more, so the number of states is finite.
 *
 * Each protection can be removed with one -D, which stands where the protection is; variants.toml
 * has the list. README.md has the rules by number.
 */

/* ---- Constants, in ticks. constants.md has the inequalities, and the values of the program. ---- */

#ifndef HOSTS
#define HOSTS 2
#endif
#ifndef LIVES
#define LIVES 3                 /* leases that there may ever be */
#endif
#ifndef TTL
#define TTL 4                   /* a lease is valid for so long after the begin of a commit */
#endif
#ifndef GRACE
#define GRACE 1                 /* others wait so much longer before they fence it */
#endif
#ifndef U
#define U 2                     /* TCP_USER_TIMEOUT: the kernel gives up what is not acknowledged */
#endif
#ifndef SETTLED_WITHIN
#define SETTLED_WITHIN 16       /* once nothing goes wrong any more */
#endif
#ifndef PROCESSING
#define PROCESSING 1            /* the provider's own time: max(settling, request time-out) */
#endif
#ifdef FENCE_WITHOUT_GRACE
#define SILENT TTL
#else
#define SILENT (TTL + GRACE)
#endif

#define NOBODY LIVES            /* no lease */

/* ---- The database ---- */

mtype = { UNUSED, LIVE, RETIRED, FENCED }
/* RETIRED: somebody has ended the lease before its time, as `migrate` does to a host that is too
 * old. Its commits are refused from now on, but the host may not know for a while, and send. So it
 * is fenced like any other: once it was silent for long enough. */

mtype = { BEAT, CLAIM, GIVE_BACK, RECORD_DONE, RECORD_UNKNOWN }
mtype = { NONE, CLAIMED, TAKEN_OVER }

typedef Lease {
    mtype state = UNUSED;
    bool has_switch;
    /* The commit that its holder works on. `beats` is not in the model: there is one such commit
     * at a time, and `applied` says whether `beats` has its number. */
    mtype kind = BEAT;
    bool sent;                  /* under way on the present connection */
    bool old;                   /* under way on one that broke: the old COMMIT */
    bool awaited;               /* its holder is alive and wants to know */
    bool applied;
    mtype result = NONE;
#ifdef FENCE_UNSEEN
    byte suspect = NOBODY;
#endif
#ifdef WITHOUT_BEATS
    bool ghost;                 /* an old COMMIT that is alive after its repetition was applied */
    mtype ghost_kind = BEAT;
#endif
}

Lease lease[LIVES];
byte lives;                     /* leases so far */

mtype = { PLANNED, IN_FLIGHT, DONE, UNKNOWN }

typedef Operation {
    mtype state = PLANNED;
    byte owner = NOBODY;
    bool unsure;                /* a host without a switch may still send it: never repeat it */
    byte silent;                /* ticks since a commit of its owner was applied: the longest
                                 * silence that an observer can have seen, whenever it looked */
}

Operation operation;

#define RUN_IS_OVER (operation.state == DONE || operation.state == UNKNOWN)

bool server_changed;            /* it has lost commits; its identity is not that of the run */
bool rechecked;                 /* a person has decided: go on, and look everything up */

/* ---- The provider ---- */

byte request[LIVES];            /* ticks for which a life's request may still be executed */
byte executed;                  /* how often. The property: never twice. */

/* ---- The hosts: what is in the memory of the process, and in its kernel ---- */

mtype = { IDLE, SENT, REPEAT, ANSWERED, ARMED }
/* SENT waits for the answer to a commit. REPEAT has read on a new connection that it was not
 * applied. ANSWERED knows that it was. ARMED has set the switch and not published the deadline. */

mtype = { NOTHING, READY, DEPARTED, DOUBT, EXECUTED, NOT_EXECUTED, UNRESOLVED }
/* What it knows of the operation. READY: claimed, may be sent. DEPARTED: sent, not answered. DOUBT:
 * may have been executed. The others are what an answer or a look-up has said. */

typedef Host {
    byte life = NOBODY;         /* NOBODY: the process is dead, or between two lives */
    mtype writer = IDLE;
    byte since;                 /* ticks since the commit was *first* sent: the lease counts from it */
    byte timer;                 /* in the kernel: ticks until the switch kills; 0: disarmed */
    byte deadline;              /* in memory: ticks for which the lease is valid; 0: it is not */
    bool departing;             /* between the check and the write to the socket */
    mtype holds = NOTHING;
    byte wait;                  /* ticks until the look-up */
#ifdef PAUSED_MACHINE
    bool frozen;
#endif
#ifdef SLOW_CLOCKS
    byte slowed;
#endif
}

Host host[HOSTS];

#ifdef LIVENESS
bool calm;                      /* nothing goes wrong from now on, and nobody is slow */
byte calm_for;
bool stopped[HOSTS];            /* but these hosts stand still for ever */
bool open;                      /* and such a one is in the middle of a transaction */
byte stopped_life = NOBODY;
#define IN_CALM calm
#define RUNS(h) (!stopped[h])
#define LOCKED(l) (open && stopped_life == l)
#else
#define IN_CALM false
#define RUNS(h) true
#define LOCKED(l) false
#endif

bool is_beat;                   /* these two are used within one step, and 0 between steps */
byte i;

/* ---- The protections, and what happens without them ---- */

/* Rule 1: the switch. Host 0 of a model with -DSWITCHLESS does not have one. */
#ifdef SWITCHLESS
#define HAS_SWITCH(h) (h != 0)
#else
#define HAS_SWITCH(h) true
#endif

/* Leases, 1: the fence. Only a live lease commits. */
#ifdef FENCED_MAY_COMMIT
#define MAY_COMMIT(l) true
#else
#define MAY_COMMIT(l) (lease[l].state == LIVE)
#endif

/* Leases, 1: fencing compares the beats that were seen, when it is applied. */
#ifdef FENCE_UNSEEN
#define TO_BE_FENCED(l) (lease[l].suspect == operation.owner)
#else
#define TO_BE_FENCED(l) (operation.silent >= SILENT && !LOCKED(operation.owner))
#endif

/* Leases, 1: check the lease before each departure. */
#ifdef WITHOUT_CHECK
#define IS_VALID(h) true
#else
#define IS_VALID(h) (host[h].deadline > 0)
#endif

/* Rule 5: disarm only with nothing between check and write. */
#ifdef DISARM_IN_DEPARTURE
#define MAY_DISARM(h) true
#else
#define MAY_DISARM(h) (!host[h].departing)
#endif

/* Rule 4. A server that has lost commits has lost its connections too. So everybody connects anew,
 * compares system identifier and timeline with those of the run, and stops. */
#ifdef WITHOUT_IDENTITY
#define MAY_BEGIN true
#else
#define MAY_BEGIN (!server_changed || rechecked)
#endif

/* Rule 6: a proxy acknowledges, and delivers when it likes. What is in doubt behind one is never
 * repeated, and neither is what a host without a switch has left. */
#ifdef PROXY
#define NEVER_EXPIRES
#define UNREPEATABLE true
#else
#define UNREPEATABLE operation.unsure
#endif
#ifdef WITHOUT_USER_TIMEOUT
#define NEVER_EXPIRES
#endif

/* Rule 6: from a host's own take-over to its look-up. */
#define REQUEST_LIVES (U + PROCESSING)
#ifdef TAKER_DOES_NOT_WAIT
#define WAIT 0
#else
#ifdef WAIT_WITHOUT_PROCESSING
#define WAIT U
#else
#define WAIT REQUEST_LIVES
#endif
#endif
#ifdef RECHECK_AT_ONCE
#define RECHECK_WAIT WAIT
#else
#define RECHECK_WAIT (TTL + WAIT)
#endif

#ifdef REUSE_FIRST_WAIT
byte first_wait;                /* begun by the first who took the operation over */
bool first_wait_began;
#endif

#ifdef FENCED_MAY_COMMIT
#define FENCE(its) its.state = FENCED
#else                           /* whatever is still under way will change 0 rows */
#define FENCE(its) its.state = FENCED; its.sent = false; its.old = false
#endif

/* ---- A host: its writer owns the lease, its sender owns the requests ---- */

#define NOT_FENCED(l) (lease[l].state == LIVE || lease[l].state == RETIRED)

#ifdef SWITCHLESS
#define IS_FIRST_FREE(h) true
#else
#define IS_FIRST_FREE(h) (h == 0 || host[h - 1].life != NOBODY)
#endif

/* A copy of a commit that only beats, for a host that has nothing to send, is as good as the commit
 * itself, which may be applied at any time anyway. */
#define REPETITION_MATTERS(h) (host[h].holds == READY || lease[host[h].life].kind != BEAT)

#define AWAITS_ANSWER(h) (host[h].writer == SENT || host[h].writer == REPEAT)

inline send_commit(h, what) {
    printf("host %d, life %d: sends a commit, to %e\n", h, host[h].life, what);
    host[h].writer = SENT;
    host[h].since = 0;
    lease[host[h].life].kind = what;
    lease[host[h].life].sent = true;
    lease[host[h].life].awaited = true
}

/* The answer to a commit is used up, or nobody is there any more to use it. */
#define FORGET_COMMIT(mine) \
    mine.awaited = false; \
    mine.applied = false; \
    mine.result = NONE; \
    if \
    :: !mine.sent && !mine.old -> mine.kind = BEAT \
    :: else \
    fi

/* With nothing that may be sent, it does not matter when the switch kills: any process may be
 * killed at any time. So neither switch nor deadline are followed then. */
inline hold(h, what) {
    host[h].holds = what;
    if
    :: what != READY -> host[h].timer = 0; host[h].deadline = 0
    :: else
    fi
}

inline arm(h) {
    printf("host %d, life %d: arms the switch\n", h, host[h].life);
    if
    :: HAS_SWITCH(h) -> host[h].timer = TTL - host[h].since
    :: else
    fi
}

inline publish(h) {
    printf("host %d, life %d: publishes its deadline: %d ticks\n", h, host[h].life, TTL - host[h].since);
    host[h].deadline = TTL - host[h].since
}

#ifdef PUBLISH_BEFORE_ARMING
#define FIRST(h) publish(h)
#define SECOND(h) arm(h)
#else
#define FIRST(h) arm(h)
#define SECOND(h) publish(h)
#endif

inline begin_wait(h) {
#ifdef REUSE_FIRST_WAIT
    if
    :: !first_wait_began -> first_wait_began = true; first_wait = WAIT
    :: else
    fi;
    host[h].wait = first_wait
#else
    if
    :: rechecked -> host[h].wait = RECHECK_WAIT
    :: else -> host[h].wait = WAIT
    fi
#endif
}

/* A lease whose holder is gone, that owns nothing, and of which nothing is under way, can't be told
 * from a fenced one. */
#define BURY(l, its) \
    if \
    :: operation.owner != l && !its.sent && !its.old -> its.state = FENCED \
    :: else \
    fi

inline end_life(h) {
    FORGET_COMMIT(lease[host[h].life]);
    BURY(host[h].life, lease[host[h].life]);
    host[h].life = NOBODY;
    host[h].writer = IDLE;
    host[h].since = 0;
    host[h].timer = 0;
#ifdef SLOW_CLOCKS
    host[h].slowed = 0;
#endif
    host[h].deadline = 0
}

/* The process dies, and its memory with it. */
inline kill(h) {
    end_life(h);
    host[h].departing = false;
    host[h].holds = NOTHING;
    host[h].wait = 0
}

/* `LeaseLost`: the life ends, and the process goes on. It ends all tasks and forgets what it holds
 * before a new life begins (rule 5). */
inline lose_lease(h) {
    end_life(h);
#ifndef TASKS_SURVIVE_THE_LEASE
    host[h].departing = false;
#endif
#ifdef OPERATIONS_SURVIVE_THE_LEASE
    if
    :: host[h].holds != READY -> host[h].holds = NOTHING
    :: else
    fi;
#else
    host[h].holds = NOTHING;
#endif
    host[h].wait = 0
}

#define MAY_START(h) \
    (host[h].life == NOBODY && lives < LIVES && MAY_BEGIN && !RUN_IS_OVER && IS_FIRST_FREE(h))

#ifdef LIVENESS
/* In the calm, commits arrive, answers too, and nobody commits for nothing. */
#ifdef LEAVES_WHEN_NONE_IS_FREE
#define CLAIMABLE (operation.state == PLANNED)
#else
#define CLAIMABLE \
    (operation.state == PLANNED || operation.owner == NOBODY || \
     lease[operation.owner].state == FENCED || TO_BE_FENCED(_))
#endif
#define BEAT_IS_DUE(h) (operation.silent > 1 || (host[h].holds == READY && host[h].deadline < 2))
#define IS_USEFUL(h) \
    (!calm || (host[h].holds == NOTHING -> CLAIMABLE : (WAITS(h) -> BEAT_IS_DUE(h) : true)))
#define WAITS(h) (host[h].holds == READY || host[h].holds == DEPARTED || host[h].holds == DOUBT)
#define MAY_REREAD(h) \
    (calm -> RUNS(h) && !lease[host[h].life].sent : REPETITION_MATTERS(h))
#define GIVES_UP(h) (!calm || request[host[h].life] == 0)
#else
#define IS_USEFUL(h) true
#define MAY_REREAD(h) REPETITION_MATTERS(h)
#define GIVES_UP(h) true
#endif

#define ME _pid                 /* the hosts are the first processes */

active [HOSTS] proctype Machine() {
    do

    /* A life begins. Its id is new, also to a database that was restored. One that dies with the
     * answer to its registration is one that dies at once. Dead hosts are all alike, so the first
     * of them starts. */
    :: d_step {
        RUNS(ME) && MAY_START(ME) ->
            host[ME].life = lives;
            lease[lives].state = LIVE;
            lease[lives].has_switch = HAS_SWITCH(ME);
            printf("host %d: begins life %d\n", ME, lives);
            lives++
       }

    /* -- The writer: a commit in three steps: sent, applied (by Server, below), answered -- */

    :: d_step {
        (RUNS(ME) && host[ME].life != NOBODY && host[ME].writer == IDLE && !RUN_IS_OVER &&
         IS_USEFUL(ME)) ->
#ifdef FENCE_UNSEEN
            if
            :: operation.silent >= SILENT -> lease[host[ME].life].suspect = operation.owner
            :: else -> lease[host[ME].life].suspect = NOBODY
            fi;
#endif
            if
            :: host[ME].holds == NOTHING -> send_commit(ME, CLAIM)
            :: host[ME].holds == NOT_EXECUTED -> send_commit(ME, GIVE_BACK)
            :: host[ME].holds == EXECUTED -> send_commit(ME, RECORD_DONE)
            :: host[ME].holds == UNRESOLVED -> send_commit(ME, RECORD_UNKNOWN)
            :: else -> send_commit(ME, BEAT)
            fi
       }

    :: d_step { /* It was applied, says its answer, or the row that is read on a new connection. */
        RUNS(ME) && AWAITS_ANSWER(ME) && lease[host[ME].life].applied ->
            is_beat = (lease[host[ME].life].kind == BEAT);
            printf("host %d, life %d: knows that its commit was applied\n", ME, host[ME].life);
            if
            :: lease[host[ME].life].result == CLAIMED -> hold(ME, READY)
            :: lease[host[ME].life].result == TAKEN_OVER -> hold(ME, DOUBT); begin_wait(ME)
            :: lease[host[ME].life].kind == GIVE_BACK -> hold(ME, NOTHING)
            :: lease[host[ME].life].kind == RECORD_DONE -> hold(ME, NOTHING)
            :: lease[host[ME].life].kind == RECORD_UNKNOWN -> hold(ME, NOTHING)
            :: else
            fi;
            FORGET_COMMIT(lease[host[ME].life]);
            if
            :: is_beat && host[ME].holds == READY && host[ME].since < TTL -> host[ME].writer = ANSWERED
            :: else -> host[ME].writer = IDLE; host[ME].since = 0
            fi;
            is_beat = false
       }

#ifdef READ_RENEWS
    :: d_step { /* Not rule 3: the lease counts from the read that finds the commit applied. */
        AWAITS_ANSWER(ME) && lease[host[ME].life].applied && host[ME].since > 0 ->
            host[ME].since = 0;
            printf("host %d, life %d: reads it, and counts from now\n", ME, host[ME].life)
       }
#endif

    :: d_step { /* The connection broke, and a new one reads: not applied, or not yet. */
        (host[ME].writer == SENT && !lease[host[ME].life].applied && !lease[host[ME].life].old &&
         lease[host[ME].life].state == LIVE && MAY_REREAD(ME)) ->
            host[ME].writer = REPEAT;
            printf("host %d, life %d: reads that its commit was not applied\n", ME, host[ME].life)
       }

    :: d_step { /* So it is repeated, word for word. The old COMMIT may still be alive. */
        RUNS(ME) && host[ME].writer == REPEAT && lease[host[ME].life].state == LIVE ->
            if
            :: !lease[host[ME].life].applied ->
                lease[host[ME].life].old = lease[host[ME].life].sent;
                lease[host[ME].life].sent = true
            :: else             /* the old one was applied meanwhile: this one will change 0 rows */
            fi;
#ifdef REPEAT_RENEWS
            host[ME].since = 0;  /* Not rule 3: the lease counts from the last transmission. */
#endif
            host[ME].writer = SENT;
            printf("host %d, life %d: repeats its commit\n", ME, host[ME].life)
       }

    :: d_step { /* 0 rows, and the row that is read then says why: the lease is lost (rule 10). */
        (RUNS(ME) && AWAITS_ANSWER(ME) && !lease[host[ME].life].applied &&
         (lease[host[ME].life].state == FENCED || lease[host[ME].life].state == RETIRED)) ->
            printf("host %d, life %d: learns that its lease is lost\n", ME, host[ME].life);
            lose_lease(ME)
       }

    /* -- Switch and deadline (rule 5): arm, then publish; disarm both under one lock -- */

    :: d_step {
        RUNS(ME) && host[ME].writer == ANSWERED ->
            if
            :: host[ME].holds == READY && host[ME].since < TTL -> FIRST(ME); host[ME].writer = ARMED
            :: else -> host[ME].writer = IDLE; host[ME].since = 0
            fi
       }

    :: d_step {
        RUNS(ME) && host[ME].writer == ARMED ->
            if
            :: host[ME].holds == READY && host[ME].since < TTL -> SECOND(ME)
            :: else
            fi;
            host[ME].writer = IDLE;
            host[ME].since = 0
       }

    :: d_step { /* The database is away: stand still rather than be killed. */
        !IN_CALM && AWAITS_ANSWER(ME) && host[ME].timer > 0 && MAY_DISARM(ME) ->
            host[ME].timer = 0;
            printf("host %d, life %d: disarms the switch\n", ME, host[ME].life);
#ifndef DISARM_KEEPS_DEADLINE
            host[ME].deadline = 0
#endif
       }

    /* -- The sender: check and write are two steps, and anything may happen in between -- */

    :: d_step {
        (RUNS(ME) && host[ME].life != NOBODY && host[ME].holds == READY && !host[ME].departing &&
         IS_VALID(ME)) ->
            host[ME].departing = true;
            printf("host %d, life %d: has checked, and is about to write\n", ME, host[ME].life)
       }

    :: d_step {
        RUNS(ME) && host[ME].departing && host[ME].life != NOBODY ->
            host[ME].departing = false;
            request[host[ME].life] = REQUEST_LIVES;
            printf("host %d, life %d: WRITES the request\n", ME, host[ME].life);
            hold(ME, DEPARTED)
       }

    :: d_step { /* An answer. */
        RUNS(ME) && host[ME].holds == DEPARTED && executed > 0 -> hold(ME, EXECUTED)
       }

    :: d_step { /* No answer: a host waits with its own doubt as long as a taker. */
        RUNS(ME) && host[ME].holds == DEPARTED && GIVES_UP(ME) -> hold(ME, DOUBT); host[ME].wait = WAIT;
            printf("host %d, life %d: gets no answer, and waits\n", ME, host[ME].life)
       }

    :: d_step { /* The look-up. */
        RUNS(ME) && host[ME].holds == DOUBT && host[ME].wait == 0 ->
            printf("host %d, life %d: looks up: executed %d times\n", ME, host[ME].life, executed);
            if
            :: executed > 0 -> hold(ME, EXECUTED)
            :: executed == 0 && UNREPEATABLE -> hold(ME, UNRESOLVED)
            :: executed == 0 && !UNREPEATABLE -> hold(ME, NOT_EXECUTED)
            fi
       }
    od
}

/* ---- The server applies what is under way, whenever it likes ---- */

inline own(l) {
    operation.owner = l;
    operation.silent = 0
}

inline disown() {
    operation.owner = NOBODY;
    operation.unsure = false;
    operation.silent = 0
}

#ifdef RECORD_WITHOUT_OWNER     /* A second layer: a fenced lease can't commit anyway. */
#define OWNS(l) true
#else
#define OWNS(l) (operation.owner == l)
#endif

/* What a commit of a life changes, in one transaction. Recording is compare-and-set on state and
 * owner. */
inline change(l, what) {
    if
    :: what == CLAIM ->
        if
        :: operation.state == PLANNED ->
            operation.state = IN_FLIGHT;
            own(l);
            printf("operation: claimed by life %d\n", l);
            lease[l].result = CLAIMED
        :: operation.state == IN_FLIGHT && operation.owner == NOBODY ->
            own(l);
            lease[l].result = TAKEN_OVER
        :: operation.state == IN_FLIGHT && operation.owner != NOBODY && operation.owner != l ->
            if
            :: TO_BE_FENCED(l) || lease[operation.owner].state == FENCED ->
                printf("operation: life %d is fenced, life %d takes over\n", operation.owner, l);
                FENCE(lease[operation.owner]);
#ifdef UNSURE_IS_FORGOTTEN
                operation.unsure = !lease[operation.owner].has_switch;
#else
#ifndef TRUST_SWITCHLESS
                operation.unsure = operation.unsure || !lease[operation.owner].has_switch;
#endif
#endif
                own(l);
                lease[l].result = TAKEN_OVER
            :: else
            fi
        :: else
        fi
    :: what == GIVE_BACK && operation.state == IN_FLIGHT && OWNS(l) ->
        operation.state = PLANNED;
        printf("operation: life %d gives it back\n", l);
        disown()
    :: what == RECORD_DONE && operation.state == IN_FLIGHT && OWNS(l) ->
        operation.state = DONE;
        disown();
        assert(executed > 0)
    :: what == RECORD_UNKNOWN && operation.state == IN_FLIGHT && OWNS(l) ->
        operation.state = UNKNOWN;
        disown()
    :: else
    fi
}

inline apply(l) {
    if
    :: MAY_COMMIT(l) ->
        if
        :: operation.owner == l -> operation.silent = 0
        :: else
        fi;
        change(l, lease[l].kind);
        lease[l].applied = true;
#ifdef WITHOUT_BEATS
        if
        :: lease[l].old || lease[l].sent -> lease[l].ghost = true; lease[l].ghost_kind = lease[l].kind
        :: else
        fi;
#endif
        lease[l].sent = false;  /* `beats` has its number now: any other copy will change 0 rows */
        lease[l].old = false
    :: else
    fi;
    if
    :: !lease[l].awaited -> FORGET_COMMIT(lease[l]); BURY(l, lease[l])
    :: else
    fi
}

#define APPLIES(l) \
    d_step { lease[l].sent && !LOCKED(l) -> lease[l].sent = false; apply(l) } \
    :: d_step { lease[l].old && !LOCKED(l) -> lease[l].old = false; apply(l) }

#ifdef WITHOUT_BEATS            /* A copy of what was applied before, and nothing that says so. */
#define APPLIES_AGAIN(l) \
    d_step { lease[l].ghost && MAY_COMMIT(l) -> lease[l].ghost = false; change(l, lease[l].ghost_kind) }
#else
#define APPLIES_AGAIN(l) false
#endif

active proctype Server() {
    do
    :: APPLIES(0)
    :: APPLIES_AGAIN(0)
#if LIVES > 1
    :: APPLIES(1)
    :: APPLIES_AGAIN(1)
#endif
#if LIVES > 2
    :: APPLIES(2)
    :: APPLIES_AGAIN(2)
#endif
    od
}

/* ---- The provider executes a request at any time until it expires ---- */

#define EXECUTES(l) d_step { request[l] > 0 -> request[l] = 0; executed++; \
    printf("provider: EXECUTES the request of life %d\n", l); assert(executed < 2) }

active proctype Provider() {
    do
    :: EXECUTES(0)
#if LIVES > 1
    :: EXECUTES(1)
#endif
#if LIVES > 2
    :: EXECUTES(2)
#endif
    od
}

/* ---- Time ---- */

inline count_down(counter) {
    if
    :: counter > 0 -> counter--
    :: else
    fi
}

inline count_up(counter, limit) {
    if
    :: counter < limit -> counter++
    :: else
    fi
}

#ifdef PAUSED_MACHINE
#define CLOCK_RUNS(h) (!host[h].frozen)
#else
#define CLOCK_RUNS(h) true
#endif

/* Only the deadline of a host that may send is followed. It comes from a beat: the claim itself,
 * which began earlier, would give an earlier one. */
#define COUNTS(h) (host[h].holds == READY)

#ifdef LIVENESS
/* In the calm, time stands still as long as somebody has something to do. */
#define WORKS(h) \
    (RUNS(h) && (MAY_START(h) || (host[h].life != NOBODY && ( \
        host[h].writer == ANSWERED || host[h].writer == ARMED || host[h].writer == REPEAT || \
        host[h].writer == SENT && !lease[host[h].life].sent && !lease[host[h].life].old || \
        host[h].writer == IDLE && !RUN_IS_OVER && IS_USEFUL(h) || \
        host[h].departing || \
        host[h].holds == READY && IS_VALID(h) || \
        host[h].holds == DEPARTED && (executed > 0 || GIVES_UP(h)) || \
        host[h].holds == DOUBT && host[h].wait == 0))))
#define UNDER_WAY(l) ((lease[l].sent || lease[l].old) && !LOCKED(l) || request[l] > 0)
#define SOMEBODY (host[0].life != NOBODY && RUNS(0) || host[1].life != NOBODY && RUNS(1))
#define NOBODY_IS_SLOW !(calm && (WORKS(0) || WORKS(1) || UNDER_WAY(0) || UNDER_WAY(1)))
#else
#define NOBODY_IS_SLOW true
#endif

active proctype Time() {
    do
    :: d_step {
        NOBODY_IS_SLOW ->
        printf("tick\n");
        do
        :: i == HOSTS -> break
        :: i < HOSTS && host[i].life != NOBODY && CLOCK_RUNS(i) ->
            if
            :: host[i].writer != IDLE && COUNTS(i) -> count_up(host[i].since, TTL)
            :: else
            fi;
            count_down(host[i].wait);
            count_down(host[i].deadline);
            if
            :: host[i].timer > 1 -> host[i].timer--
#ifdef WITHOUT_SWITCH
            :: host[i].timer == 1 -> host[i].timer = 0
#else
            :: host[i].timer == 1 ->        /* by the kernel, even if it is stopped */
                printf("host %d, life %d: killed by its switch\n", i, host[i].life);
                kill(i)
#endif
            :: else
            fi;
            i++
        :: else -> i++
        od;
        i = 0;
        do
        :: i == LIVES -> break
        :: i < LIVES ->
#ifndef NEVER_EXPIRES
            count_down(request[i]);
#endif
            i++
        od;
        i = 0;
        if
        :: operation.owner != NOBODY -> count_up(operation.silent, SILENT)
        :: else
        fi;
#ifdef LIVENESS
        if
        :: calm ->
#ifndef WITHOUT_IDLE_TIMEOUT
            if                  /* idle_in_transaction_session_timeout: rolled back */
            :: open -> open = false; lease[stopped_life].sent = false; lease[stopped_life].old = false
            :: else
            fi;
#endif
            count_up(calm_for, SETTLED_WITHIN);
            assert(RUN_IS_OVER || !SOMEBODY || calm_for < SETTLED_WITHIN)
        :: else
        fi;
#endif
#ifdef REUSE_FIRST_WAIT
        count_down(first_wait)
#endif
       }
    od
}

/* ---- What goes wrong ---- */

#define KILLS(h)                /* kill -9, a power failure, an operator */ \
    d_step { !IN_CALM && host[h].life != NOBODY && (host[h].holds != NOTHING || host[h].writer != IDLE) -> \
    printf("host %d, life %d: killed\n", h, host[h].life); kill(h) }

#define FENCES(h)               /* a lease that owns nothing, rightly or not: any time is the worst */ \
    d_step { \
        (!IN_CALM && host[h].life != NOBODY && operation.owner != host[h].life && \
         lease[host[h].life].state == LIVE) -> \
            FENCE(lease[host[h].life]) \
    }

#ifdef RETIREMENT               /* Somebody ends the lease: `migrate`, or an operator. */
#ifdef RETIRED_IS_FENCED
#define RETIRE(its) FENCE(its)
#else
#define RETIRE(its) its.state = RETIRED; its.sent = false; its.old = false
#endif
#define RETIRES(h) \
    d_step { \
        host[h].life != NOBODY && operation.owner == host[h].life && lease[host[h].life].state == LIVE -> \
            printf("host %d, life %d: somebody ends its lease\n", h, host[h].life); \
            RETIRE(lease[host[h].life]) \
    }
#else
#define RETIRES(h) false
#endif

#ifdef PAUSED_MACHINE           /* A hypervisor stops the whole machine, its clocks and its switch. */
#define FREEZES(h) d_step { host[h].life != NOBODY -> host[h].frozen = !host[h].frozen; \
    printf("host %d: its machine is paused: %d\n", h, host[h].frozen) }
#else
#define FREEZES(h) false
#endif

#ifdef SLOW_CLOCKS              /* The clock of host 0 is slow, or a kill takes a while: two ticks. */
#define SLOWS(h) \
    d_step { \
        h == 0 && host[h].timer > 0 && host[h].slowed < 2 -> \
            host[h].slowed++; \
            printf("host %d: its clock loses a tick\n", h); \
            host[h].timer++; \
            host[h].deadline = (host[h].deadline > 0 -> host[h].deadline + 1 : 0) \
    }
#else
#define SLOWS(h) false
#endif

#ifdef LIVENESS
#define CALMS \
    d_step { !calm -> calm = true; printf("calm from now on\n") } \
    :: d_step { \
        !calm && host[0].life != NOBODY -> calm = true; stopped[0] = true; \
        printf("calm from now on, and host 0 is stopped for ever\n") \
    } \
    :: d_step { \
        !calm && host[1].life != NOBODY -> calm = true; stopped[1] = true; \
        printf("calm from now on, and host 1 is stopped for ever\n") \
    } \
    :: d_step { \
        !calm && host[0].life != NOBODY && lease[host[0].life].sent -> \
            calm = true; \
            stopped[0] = true; \
            stopped_life = host[0].life; \
            open = true; \
            printf("calm from now on, and host 0 is stopped for ever, within a transaction\n") \
    }
#else
#define CALMS false
#endif

#define TROUBLE(h) \
    :: KILLS(h) \
    :: FENCES(h) \
    :: RETIRES(h) \
    :: FREEZES(h) \
    :: SLOWS(h)

active proctype Trouble() {
    do
    :: CALMS
    TROUBLE(0)
#if HOSTS > 1
    TROUBLE(1)
#endif
#if HOSTS > 2
    TROUBLE(2)
#endif
    od
}

#ifdef LOSS
/* The database goes back to the begin of the run, on a server with another identity: a restored
 * backup, a standby that had received nothing. Then a person has everything looked up that is not
 * final: an operation that nobody owns is in doubt. */
active proctype Loss() {
    d_step {
        lives > 0 ->
            server_changed = true;
            printf("database: all commits are lost\n");
            do
            :: i == lives -> break
            :: i < lives -> FENCE(lease[i]); lease[i].applied = false; i++    /* their rows are gone */
            od;
            i = 0;
            operation.state = PLANNED;
            disown()
    }
    d_step {
        rechecked = true;
        printf("a person: go on\n");
#ifndef GO_ON_WITHOUT_LOOKING
        operation.state = IN_FLIGHT
#endif
    }
}
#endif
