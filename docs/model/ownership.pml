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
 * Each protection can be removed with one -D, which stands where the protection is. model.toml has
 * the list. The rules are those of the design, with its numbers.
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

mtype:lease = { UNUSED, LIVE, RETIRED, FENCED }
/* RETIRED: somebody has ended the lease before its time, as `migrate` does to a host that is too
 * old. Its commits are refused from now on, but the host may not know for a while, and send. So it
 * is fenced like any other: once it was silent for long enough. */

mtype:commit = { BEAT, CLAIM, GIVE_BACK, RECORD_DONE, RECORD_UNKNOWN }
mtype:result = { NONE, CLAIMED, TAKEN_OVER }

typedef Lease {
    mtype:lease state = UNUSED;
    bool has_switch;
    /* The commit that its holder works on. `beats` is not in the model: there is one such commit
     * at a time, and `applied` says whether `beats` has its number. */
    mtype:commit kind = BEAT;
    bool sent;                  /* under way on the present connection */
    bool old;                   /* under way on one that broke: the old COMMIT */
    bool awaited;               /* its holder is alive and wants to know */
    bool applied;
    mtype:result result = NONE;
#ifdef FENCE_UNSEEN
    byte suspect = NOBODY;
#endif
#ifdef WITHOUT_BEATS
    bool ghost;                 /* an old COMMIT that is alive after its repetition was applied */
    mtype:commit ghost_kind = BEAT;
#endif
}

Lease lease[LIVES];
byte lives;                     /* leases so far */

mtype:operation = { PLANNED, IN_FLIGHT, DONE, UNKNOWN }

typedef Operation {
    mtype:operation state = PLANNED;
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

mtype:writer = { IDLE, SENT, REPEAT, ANSWERED, ARMED }
/* SENT waits for the answer to a commit. REPEAT has read on a new connection that it was not
 * applied. ANSWERED knows that it was. ARMED has set the switch and not published the deadline. */

mtype:holds = { NOTHING, READY, DEPARTED, DOUBT, EXECUTED, NOT_EXECUTED, UNRESOLVED }
/* What it knows of the operation. READY: claimed, may be sent. DEPARTED: sent, not answered. DOUBT:
 * may have been executed. The others are what an answer or a look-up has said. */

typedef Host {
    byte life = NOBODY;         /* NOBODY: the process is dead, or between two lives */
    mtype:writer writer = IDLE;
    byte since;                 /* ticks since the commit was *first* sent: the lease counts from it */
    byte timer;                 /* in the kernel: ticks until the switch kills; 0: disarmed */
    byte deadline;              /* in memory: ticks for which the lease is valid; 0: it is not */
    bool departing;             /* between the check and the write to the socket */
    mtype:holds holds = NOTHING;
    byte wait;                  /* ticks until the look-up */
#ifdef PAUSED_MACHINE
    bool frozen;
#endif
}

Host host[HOSTS];

byte i;                         /* for loops within one step; 0 between steps */

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
#define TO_BE_FENCED(l) (operation.silent >= SILENT)
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
    if
    :: HAS_SWITCH(h) -> host[h].timer = TTL - host[h].since
    :: else
    fi
}

inline publish(h) {
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

proctype Machine(byte h) {
    do

    /* A life begins. Its id is new, also to a database that was restored. One that dies with the
     * answer to its registration is one that dies at once. Dead hosts are all alike, so the first
     * of them starts. */
    :: d_step {
        (host[h].life == NOBODY && lives < LIVES && MAY_BEGIN && !RUN_IS_OVER && IS_FIRST_FREE(h)) ->
            host[h].life = lives;
            lease[lives].state = LIVE;
            lease[lives].has_switch = HAS_SWITCH(h);
            lives++
       }

    /* -- The writer: a commit in three steps: sent, applied (by Server, below), answered -- */

    :: d_step {
        host[h].life != NOBODY && host[h].writer == IDLE && !RUN_IS_OVER ->
#ifdef FENCE_UNSEEN
            if
            :: operation.silent >= SILENT -> lease[host[h].life].suspect = operation.owner
            :: else -> lease[host[h].life].suspect = NOBODY
            fi;
#endif
            if
            :: host[h].holds == NOTHING -> send_commit(h, CLAIM)
            :: host[h].holds == NOT_EXECUTED -> send_commit(h, GIVE_BACK)
            :: host[h].holds == EXECUTED -> send_commit(h, RECORD_DONE)
            :: host[h].holds == UNRESOLVED -> send_commit(h, RECORD_UNKNOWN)
            :: else -> send_commit(h, BEAT)
            fi
       }

    :: d_step { /* It was applied, says its answer, or the row that is read on a new connection. */
        AWAITS_ANSWER(h) && lease[host[h].life].applied ->
            if
            :: lease[host[h].life].result == CLAIMED -> hold(h, READY)
            :: lease[host[h].life].result == TAKEN_OVER -> hold(h, DOUBT); begin_wait(h)
            :: lease[host[h].life].kind == GIVE_BACK -> hold(h, NOTHING)
            :: lease[host[h].life].kind == RECORD_DONE -> hold(h, NOTHING)
            :: lease[host[h].life].kind == RECORD_UNKNOWN -> hold(h, NOTHING)
            :: else
            fi;
            FORGET_COMMIT(lease[host[h].life]);
            if
            :: host[h].holds == READY && host[h].since < TTL -> host[h].writer = ANSWERED
            :: else -> host[h].writer = IDLE; host[h].since = 0
            fi
       }

#ifdef READ_RENEWS
    :: d_step { /* Not rule 3: the lease counts from the read that finds the commit applied. */
        AWAITS_ANSWER(h) && lease[host[h].life].applied && host[h].since > 0 -> host[h].since = 0
       }
#endif

    :: d_step { /* The connection broke, and a new one reads: not applied, or not yet. */
        (host[h].writer == SENT && !lease[host[h].life].applied && !lease[host[h].life].old &&
         lease[host[h].life].state == LIVE && REPETITION_MATTERS(h)) ->
            host[h].writer = REPEAT
       }

    :: d_step { /* So it is repeated, word for word. The old COMMIT may still be alive. */
        host[h].writer == REPEAT && lease[host[h].life].state == LIVE ->
            if
            :: !lease[host[h].life].applied ->
                lease[host[h].life].old = lease[host[h].life].sent;
                lease[host[h].life].sent = true
            :: else             /* the old one was applied meanwhile: this one will change 0 rows */
            fi;
#ifdef REPEAT_RENEWS
            host[h].since = 0;  /* Not rule 3: the lease counts from the last transmission. */
#endif
            host[h].writer = SENT
       }

    :: d_step { /* 0 rows, and the row that is read then says why: the lease is lost (rule 10). */
        (AWAITS_ANSWER(h) && !lease[host[h].life].applied &&
         (lease[host[h].life].state == FENCED || lease[host[h].life].state == RETIRED)) ->
            lose_lease(h)
       }

    /* -- Switch and deadline (rule 5): arm, then publish; disarm both under one lock -- */

    :: d_step {
        host[h].writer == ANSWERED ->
            if
            :: host[h].holds == READY && host[h].since < TTL -> FIRST(h); host[h].writer = ARMED
            :: else -> host[h].writer = IDLE; host[h].since = 0
            fi
       }

    :: d_step {
        host[h].writer == ARMED ->
            if
            :: host[h].holds == READY && host[h].since < TTL -> SECOND(h)
            :: else
            fi;
            host[h].writer = IDLE;
            host[h].since = 0
       }

    :: d_step { /* The database is away: stand still rather than be killed. */
        AWAITS_ANSWER(h) && host[h].timer > 0 && MAY_DISARM(h) ->
            host[h].timer = 0;
#ifndef DISARM_KEEPS_DEADLINE
            host[h].deadline = 0
#endif
       }

    /* -- The sender: check and write are two steps, and anything may happen in between -- */

    :: d_step {
        host[h].life != NOBODY && host[h].holds == READY && !host[h].departing && IS_VALID(h) ->
            host[h].departing = true
       }

    :: d_step {
        host[h].departing && host[h].life != NOBODY ->
            host[h].departing = false;
            request[host[h].life] = REQUEST_LIVES;
            hold(h, DEPARTED)
       }

    :: d_step { /* An answer. */
        host[h].holds == DEPARTED && executed > 0 -> hold(h, EXECUTED)
       }

    :: d_step { /* No answer: a host waits with its own doubt as long as a taker. */
        host[h].holds == DEPARTED -> hold(h, DOUBT); host[h].wait = WAIT
       }

    :: d_step { /* The look-up. */
        host[h].holds == DOUBT && host[h].wait == 0 ->
            if
            :: executed > 0 -> hold(h, EXECUTED)
            :: executed == 0 && UNREPEATABLE -> hold(h, UNRESOLVED)
            :: executed == 0 && !UNREPEATABLE -> hold(h, NOT_EXECUTED)
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

/* What a commit of a life changes, in one transaction. Recording is compare-and-set on state and
 * owner. */
inline change(l, what) {
    if
    :: what == CLAIM ->
        if
        :: operation.state == PLANNED ->
            operation.state = IN_FLIGHT;
            own(l);
            lease[l].result = CLAIMED
        :: operation.state == IN_FLIGHT && operation.owner == NOBODY ->
            own(l);
            lease[l].result = TAKEN_OVER
        :: operation.state == IN_FLIGHT && operation.owner != NOBODY && operation.owner != l ->
            if
            :: TO_BE_FENCED(l) || lease[operation.owner].state == FENCED ->
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
    :: what == GIVE_BACK && operation.state == IN_FLIGHT && operation.owner == l ->
        operation.state = PLANNED;
        disown()
    :: what == RECORD_DONE && operation.state == IN_FLIGHT && operation.owner == l ->
        operation.state = DONE;
        disown();
        assert(executed > 0)
    :: what == RECORD_UNKNOWN && operation.state == IN_FLIGHT && operation.owner == l ->
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

proctype Server(byte l) {
    do
    :: d_step { lease[l].sent -> lease[l].sent = false; apply(l) }
    :: d_step { lease[l].old -> lease[l].old = false; apply(l) }
#ifdef WITHOUT_BEATS
    :: d_step { /* A copy of a commit that was applied before, and nothing that says so. */
        lease[l].ghost && MAY_COMMIT(l) -> lease[l].ghost = false; change(l, lease[l].ghost_kind)
       }
#endif
    od
}

/* ---- The provider executes a request at any time until it expires ---- */

proctype Provider(byte l) {
    do
    :: d_step { request[l] > 0 -> request[l] = 0; executed++; assert(executed < 2) }
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

/* The answer to these commits renews a deadline. */
#define COUNTS(h) (host[h].holds == READY || host[h].writer != IDLE && lease[host[h].life].kind == CLAIM)

active proctype Time() {
    do
    :: d_step {
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
            :: host[i].timer == 1 -> kill(i)    /* by the kernel, even if it is stopped */
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
#ifdef REUSE_FIRST_WAIT
        count_down(first_wait)
#endif
       }
    od
}

/* ---- What goes wrong ---- */

proctype Trouble(byte h) {
    do
    :: d_step { /* kill -9, a power failure, an operator */
        host[h].life != NOBODY && (host[h].holds != NOTHING || host[h].writer != IDLE) -> kill(h)
       }

    :: d_step { /* A lease that owns nothing is fenced, rightly or not: at any time is the worst. */
        host[h].life != NOBODY && operation.owner != host[h].life && lease[host[h].life].state == LIVE ->
            FENCE(lease[host[h].life])
       }

#ifdef RETIREMENT
    :: d_step { /* Somebody ends the lease: the host is too old, or an operator wants it out. */
        host[h].life != NOBODY && lease[host[h].life].state == LIVE ->
#ifdef RETIRED_IS_FENCED
            FENCE(lease[host[h].life])
#else
            lease[host[h].life].state = RETIRED;
            lease[host[h].life].sent = false;
            lease[host[h].life].old = false
#endif
       }
#endif
#ifdef PAUSED_MACHINE
    /* A hypervisor stops the whole machine, clocks and switch included. */
    :: d_step { host[h].life != NOBODY && !host[h].frozen -> host[h].frozen = true }
    :: d_step { host[h].frozen -> host[h].frozen = false }
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
#ifndef GO_ON_WITHOUT_LOOKING
        operation.state = IN_FLIGHT
#endif
    }
}
#endif

init {
    byte n;
    atomic {
        do
        :: n == HOSTS -> break
        :: n < HOSTS -> run Machine(n); run Trouble(n); n++
        od;
        n = 0;
        do
        :: n == LIVES -> break
        :: n < LIVES -> run Server(n); run Provider(n); n++
        od;
        n = 0
    }
}
