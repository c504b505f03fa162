/*
 * How fast? Hosts reserve slots in the database, and each slot lets one request leave. The clock of
 * the database may step, its `pace` row may go back, hosts die, join and stand still.
 *
 * In: the constants below. Out: Spin says whether a rolling second can contain more requests than
 * the ceiling allows, whether anything leaves after a pause, and whether slots starve.
 *
 * README.md says what is left out, and why that is sound. The rate is one slot per tick. What the
 * database stores as moments are ages here: how far ahead of *now*, by the database's clock. So a
 * step of that clock changes them. Everything that hosts count is by their own monotonic clocks,
 * which don't step.
 *
 * Each protection can be removed with one -D, which stands where the protection is; variants.toml
 * has the list. README.md has the rules by number.
 */

/* ---- Constants, in ticks ---- */

#define HOSTS 2
#define SECOND 4                /* the rolling second: 4 slots */
#define W 1                     /* a slot s is used within [s, s + W], or not at all */
#define LEAD 1                  /* a slot is at least so far ahead when it is reserved */
#define HORIZON 2               /* and at most so far */
#define BATCH 2                 /* most slots in one reservation: n / rate is the same here */
#define SPAN (HORIZON + BATCH + W)  /* whatever is reserved now has left by then */
#define CEILING (SECOND + W)    /* (1 + w) * rate */

#ifndef QUARANTINE
#define QUARANTINE SPAN         /* rule 9 */
#endif
#ifndef RESERVED_UP_TO
#define RESERVED_UP_TO HORIZON
#endif
#ifndef NEWCOMER_HOLD
#define NEWCOMER_HOLD SPAN      /* one horizon is not enough */
#endif

#define STEP 3                  /* a step forward of the database's clock; one back is an hour */
#ifndef STEPS
#define STEPS 2
#endif
#define HOUR 30                 /* further ahead than anything else; stays there */
#define BACK 3                  /* so far does the row go back, with the commits that are lost */
#define PATIENCE 24             /* when nothing goes wrong any more, something leaves within this */

/* ---- The database ---- */

short ahead;                    /* next_slot, seen from now */
byte quarantine;                /* not_before, seen from now; 0: it has passed */
bool unknown_server;            /* its identity is not the one in the row (rule 4) */
bool paused;                    /* the flag in the row (rule 8) */
byte paused_for;                /* ticks since */

/* ---- Hosts ---- */

mtype = { OUT, IN }
mtype = { NO, ASKED, GRANTED, REFUSED }

typedef Host {
    mtype state = OUT;
    byte hold;                  /* a newcomer waits so much longer before it reserves */
    bool stepped;               /* the clock has stepped since the host last read it: its next
                                 * reading will not fit the one before (their intervals are
                                 * disjoint) */
#ifdef ONCE_PER_EPOCH
    bool current;               /* it knows the present epoch */
#endif
    mtype asks = NO;
    bool asked_in_this_tick;
    byte age;                   /* ticks since it asked; more than W are useless */
    bool step_seen;             /* what the reading under way will show */
    byte first;                 /* ticks from the reading to the first slot granted */
    byte granted;               /* slots */
    byte left[BATCH];           /* ticks for which the slot may be used; 0: no slot. Only the last */
    byte width;                 /* `width` of them count: before, the slot may not have come */
    byte refused_for;           /* ticks, by its own clock, since it was first refused in a row */
    bool unmoved;               /* nobody has changed the row since */
}

Host host[HOSTS];

/* ---- What the provider sees, and what happens ---- */

byte sent[SECOND];              /* requests per tick, the newest first */
byte steps;
bool lost;                      /* the row has gone back; once is enough */
bool calm;                      /* nothing goes wrong from now on, and nobody is slow */
byte calm_for;
bool served;

byte i, n;                      /* for loops within one step; 0 between steps */

#define HAS_SLOTS(h) (host[h].left[0] > 0 || host[h].left[1] > 0)
#define USABLE(h, k) (host[h].left[k] > 0 && host[h].left[k] <= host[h].width)
#define MAY_ASK(h) \
    (host[h].state == IN && host[h].hold == 0 && host[h].asks == NO && \
     !host[h].asked_in_this_tick && !HAS_SLOTS(h))

inline leave(h) {
    host[h].state = OUT;
    host[h].hold = 0;
    host[h].stepped = false;
#ifdef ONCE_PER_EPOCH
    host[h].current = false;
#endif
    host[h].asks = NO;
    host[h].asked_in_this_tick = false;
    host[h].age = 0;
    host[h].step_seen = false;
    host[h].first = 0;
    host[h].granted = 0;
    host[h].left[0] = 0;
    host[h].left[1] = 0;
    host[h].width = 0;
    host[h].refused_for = 0;
    host[h].unmoved = false
}

/* Somebody has changed the row: a reset by compare-and-set that was meant before it fails. */
inline moved() {
    do
    :: i == HOSTS -> break
    :: i < HOSTS -> host[i].unmoved = false; i++
    od;
    i = 0
}

/* Everything starts anew, once all that was reserved before has left. */
inline new_epoch() {
    printf("pace: a new epoch, with a quarantine\n");
    quarantine = QUARANTINE;
    ahead = QUARANTINE;
#ifdef ONCE_PER_EPOCH
    do
    :: i == HOSTS -> break
    :: i < HOSTS -> host[i].current = false; i++
    od;
    i = 0;
#endif
    moved()
}

inline end_of_reservation(h) {
    host[h].asks = NO;
    host[h].age = 0;
    host[h].step_seen = false;
    host[h].first = 0;
    host[h].granted = 0
}

#ifdef PAUSE_IS_HEARD_LATER
#define PAUSED_NOW false        /* hosts read it every now and then, this one not yet */
#else
#define PAUSED_NOW paused       /* rule 8: tested in the statement of the reservation */
#endif

#define REFUSES (quarantine > 0 || PAUSED_NOW || (ahead > RESERVED_UP_TO))

inline depart(h, k) {
    host[h].left[k] = 0;
    sent[0]++;
    printf("host %d: SENDS; %d in this second\n", h, sent[0] + sent[1] + sent[2] + sent[3]);
    assert(sent[0] + sent[1] + sent[2] + sent[3] <= CEILING);
    assert(!paused || paused_for < SPAN);
    if
    :: calm -> served = true
    :: else
    fi;
    if
    :: !HAS_SLOTS(h) -> host[h].width = 0
    :: else
    fi
}

#ifdef STEPS_UNNOTICED
#define NOTICES false
#else
#define NOTICES true
#endif

#ifdef RESET_WITHOUT_COMPARING
#define RESETS_ANYWAY true
#else
#define RESETS_ANYWAY false
#endif

#ifdef WITHOUT_RESET
#define RESET_IS_DUE(h) false
#else
#define RESET_IS_DUE(h) \
    (host[h].asks == NO && host[h].refused_for > QUARANTINE && !paused && \
     (host[h].unmoved || RESETS_ANYWAY))
#endif

proctype Machine(byte h) {
    do

    /* A host joins, or a dead one is started again. It reads the clock, and waits. */
    :: d_step {
        host[h].state == OUT && !calm ->
            host[h].state = IN;
#ifdef ONCE_PER_EPOCH
            host[h].current = true;
#endif
            host[h].hold = NEWCOMER_HOLD;
            printf("host %d: joins, and reads the clock\n", h)
       }

    :: d_step { /* It asks for slots, when it has none. */
        MAY_ASK(h) -> host[h].asks = ASKED; host[h].asked_in_this_tick = true
       }

    /* The database answers, in one statement. The answer says what its clock was then. */
    :: d_step {
        host[h].asks == ASKED && unknown_server ->
            unknown_server = false;
            printf("host %d: asks for slots, and finds another server\n", h);
#ifndef TRUST_RESTORED_ROW
            new_epoch()
#endif
       }
    :: d_step {
        host[h].asks == ASKED && !unknown_server && REFUSES ->
            host[h].asks = REFUSED;
            printf("host %d: is refused\n", h);
#ifndef REFUSAL_WITHOUT_CLOCK
            host[h].step_seen = host[h].stepped;
            host[h].stepped = false
#endif
       }
    :: atomic {
        (host[h].asks == ASKED && !unknown_server && !REFUSES) ->
            if                  /* how many requests are ready */
            :: n = 1
            :: n = BATCH
            fi;
            d_step {
                if
                :: ahead < LEAD -> ahead = LEAD
                :: else
                fi;
                host[h].first = ahead;
                host[h].granted = n;
                ahead = ahead + n;
                host[h].asks = GRANTED;
                host[h].step_seen = host[h].stepped;
                host[h].stepped = false;
                moved();
                printf("host %d: is granted %d slots, the first in %d ticks\n", h, n, host[h].first);
                n = 0
            }
       }

    /* The answer arrives. */
    :: d_step {
        (host[h].asks == GRANTED || host[h].asks == REFUSED) && host[h].step_seen && NOTICES ->
            /* This reading of the clock does not fit the one before: drop the slots, and begin a
             * new epoch. Always: that somebody has begun one since the last reading does not mean
             * that the clock has not stepped again after that. */
            printf("host %d: notices a step\n", h);
#ifdef ONCE_PER_EPOCH
            if
            :: host[h].current -> new_epoch()
            :: else
            fi;
            host[h].current = true;
#else
            new_epoch();
#endif
            host[h].refused_for = 0;
            end_of_reservation(h)
       }
    :: d_step {
        host[h].asks == GRANTED && !(host[h].step_seen && NOTICES) ->
#ifdef ONCE_PER_EPOCH
            host[h].current = true;
#endif
            host[h].refused_for = 0;
            /* The clock was read at some moment between question and answer. If at the end, the
             * slot comes `first` after now; if at the begin, so much earlier. It is used when it
             * has come in any case, and is W old in no case. */
            if
            :: host[h].age <= W ->
                host[h].width = W - host[h].age + 1;
                host[h].left[0] = host[h].first + host[h].width;
#ifdef USE_LATE_SLOTS
                host[h].width = HORIZON + W;
#endif
                if
                :: host[h].granted == 2 -> host[h].left[1] = host[h].left[0] + 1
                :: else
                fi
            :: else             /* the question took too long: all of them are dropped */
#ifdef MAP_BY_ANSWER
                host[h].width = W + 1;
                host[h].left[0] = host[h].first + host[h].width
#endif
            fi;
            end_of_reservation(h)
       }
    :: d_step {
        host[h].asks == REFUSED && !(host[h].step_seen && NOTICES) ->
            if
            :: host[h].refused_for == 0 -> host[h].refused_for = 1; host[h].unmoved = true
            :: host[h].refused_for > 0 && !host[h].unmoved && !RESETS_ANYWAY ->
                host[h].refused_for = 1;
                host[h].unmoved = true
            :: else
            fi;
            end_of_reservation(h)
       }

    /* Refused for longer than any quarantine, by its own clock, and nobody has moved the row: what
     * it says is wrong (rule 9). */
    :: d_step {
        RESET_IS_DUE(h) ->
            printf("host %d: resets the row\n", h);
            ahead = 0;
            quarantine = 0;
            host[h].refused_for = 0;
            moved()
       }

    /* A request leaves. */
    :: d_step {
        USABLE(h, 0) -> depart(h, 0)
       }
    :: d_step {
        USABLE(h, 1) -> depart(h, 1)
       }
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

#define BUSY(h) (host[h].asks != NO || MAY_ASK(h) || USABLE(h, 0) || USABLE(h, 1) || RESET_IS_DUE(h))

active proctype Time() {
    do
    :: d_step {
        /* In the calm, nobody is slow. */
        !(calm && (BUSY(0) || BUSY(1))) && !served ->
            printf("tick\n");
            do
            :: i == HOSTS -> break
            :: i < HOSTS ->
                count_down(host[i].hold);
                host[i].asked_in_this_tick = false;
                if
                :: host[i].asks != NO -> count_up(host[i].age, W + 1)
                :: else
                fi;
                count_down(host[i].left[0]);
                count_down(host[i].left[1]);
                if
                :: !HAS_SLOTS(i) -> host[i].width = 0
                :: else
                fi;
                if
                :: host[i].refused_for > 0 -> count_up(host[i].refused_for, QUARANTINE + 1)
                :: else
                fi;
                i++
            od;
            i = 0;
            if
            :: ahead > -STEP && ahead < HOUR -> ahead--
            :: else
            fi;
            if
            :: quarantine < HOUR -> count_down(quarantine)
            :: else
            fi;
            if
            :: paused -> count_up(paused_for, SPAN + 1)
            :: else
            fi;
            sent[3] = sent[2];
            sent[2] = sent[1];
            sent[1] = sent[0];
            sent[0] = 0;
            if
            :: calm -> calm_for++; assert(calm_for <= PATIENCE)
            :: else
            fi
       }
    od
}

/* ---- What goes wrong ---- */

active proctype Trouble() {
    do
    :: d_step { host[0].state == IN && !calm -> leave(0); printf("host 0: dies\n") }
    :: d_step { host[1].state == IN && !calm -> leave(1); printf("host 1: dies\n") }

#ifndef WITHOUT_STEPS
    :: d_step { /* The database's clock goes forward: what was ahead is nearer, or past. */
        steps < STEPS && !calm ->
            steps++;
            printf("database: its clock goes forward by %d ticks\n", STEP);
            if
            :: ahead < HOUR -> ahead = (ahead > 0 -> ahead - STEP : -STEP)
            :: else
            fi;
            if
            :: quarantine < HOUR -> quarantine = (quarantine > STEP -> quarantine - STEP : 0)
            :: else
            fi;
            host[0].stepped = (host[0].state == IN);
            host[1].stepped = (host[1].state == IN)
       }
    :: d_step { /* It goes back by an hour: what was ahead is an hour away. */
        steps < STEPS && !calm ->
            steps++;
            printf("database: its clock goes back by an hour\n");
            ahead = HOUR;
            quarantine = (quarantine > 0 -> HOUR : 0);
            host[0].stepped = (host[0].state == IN);
            host[1].stepped = (host[1].state == IN)
       }
#endif
#ifdef LOSS
    :: d_step { /* Commits are lost: the row goes back, and any quarantine with it. */
        !lost && !calm ->
            lost = true;
            printf("database: commits are lost, and the row goes back\n");
            ahead = (ahead < HOUR -> (ahead > 0 -> ahead - BACK : -STEP) : HOUR);
            quarantine = 0;
#ifndef RESTORED_FILE
            unknown_server = true
#endif
       }
#endif
#ifdef PAUSE
    :: d_step { !paused -> paused = true; printf("a person: pause\n") }
#endif
#ifdef LIVENESS
    :: d_step {
        !calm && (host[0].state == IN || host[1].state == IN) ->
            calm = true;
            printf("calm from now on\n")
       }
#endif
    od
}

init {
    atomic { run Machine(0); run Machine(1) }
}
