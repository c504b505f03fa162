-- Version 3: one pace for all hosts, slots reserved in the database.
--
-- Each account has a row in `pace`, and one in `pace_lane` for each lane. A lane is a share of the
-- account's rate; there is one, unless addresses have a limit of their own. Whatever was reserved
-- in a lane is before its `next_slot`. Times are those of now_s(), lengths are in seconds.
--
-- Locks are taken in the order pace_run, pace_lane (by scope and lane), pace_host, pace.

CREATE TABLE bulkcert.pace (
    scope text COLLATE "C" PRIMARY KEY, -- provider, endpoint and account
    server text NOT NULL,               -- identity and timeline of the server that wrote this row
    epoch bigint NOT NULL,              -- grows by one whenever everything starts anew
    lanes integer NOT NULL,
    quarantine_until double precision NOT NULL,     -- nothing is reserved before
    not_before double precision NOT NULL DEFAULT 0, -- the provider has asked for a pause
    pause_s double precision NOT NULL DEFAULT 0,    -- and for how long
    share double precision NOT NULL DEFAULT 1,      -- of the full rate, at the end of that pause
    cut_at double precision NOT NULL DEFAULT 0      -- slots before say nothing about that share
);

CREATE TABLE bulkcert.pace_lane (
    scope text COLLATE "C" NOT NULL REFERENCES bulkcert.pace ON DELETE CASCADE,
    lane integer NOT NULL,
    next_slot double precision NOT NULL,
    reach_s double precision NOT NULL DEFAULT 0,    -- length of the last slots reserved together
    egress text,                        -- the way out that has it; null: nobody
    not_before double precision NOT NULL DEFAULT 0, -- it has changed hands
    PRIMARY KEY (scope, lane)
) WITH (fillfactor = 50);               -- updated many times a second

-- Who shares the pace of an account. A host that was not heard of for 10 s does not count: its slots
-- are gone by then, and so is what its kernel could not deliver.
CREATE TABLE bulkcert.pace_host (
    scope text COLLATE "C" NOT NULL,
    id uuid NOT NULL,
    run integer NOT NULL,
    ceiling double precision NOT NULL,
    egress text NOT NULL,
    late integer NOT NULL DEFAULT 0,    -- requests that have left and may arrive at any moment
    heard_at double precision NOT NULL,
    PRIMARY KEY (scope, id)
) WITH (fillfactor = 50);

-- What people and rules ask of one run. Without a row, nothing.
CREATE TABLE bulkcert.pace_run (
    run integer PRIMARY KEY REFERENCES bulkcert.run ON DELETE CASCADE,
    held boolean NOT NULL DEFAULT false,            -- nothing may leave
    version integer NOT NULL DEFAULT 0, -- a host that has not heard of this version gets no slots
    rate double precision,              -- most requests per second, if people have set that
    next_slot double precision NOT NULL DEFAULT 0,
    reach_s double precision NOT NULL DEFAULT 0
) WITH (fillfactor = 50);

-- Changes with everything that may be in the way of those who want slots.
CREATE FUNCTION bulkcert.pace_state(my_run integer, my_scopes text[]) RETURNS text
LANGUAGE sql VOLATILE AS $$
    SELECT concat_ws(' ',
        (SELECT string_agg(concat_ws(' ', epoch, quarantine_until, not_before), ',' ORDER BY scope)
            FROM bulkcert.pace WHERE scope = ANY (my_scopes)),
        (SELECT string_agg(concat_ws(' ', next_slot, egress), ',' ORDER BY scope, lane)
            FROM bulkcert.pace_lane WHERE scope = ANY (my_scopes)),
        (SELECT concat_ws(' ', held, version, rate, next_slot)
            FROM bulkcert.pace_run WHERE run = my_run))
$$;

-- Reserves consecutive moments for one host, in one lane. The clock is read, and everything that
-- may forbid it is looked at, when the lane is locked: each statement here sees what is committed
-- by then.
CREATE FUNCTION bulkcert.pace_reserve(
    my_id uuid, my_run integer, my_version integer, my_server text,
    my_scopes text[],                   -- sorted
    my_lanes integer,                   -- at least so many are needed
    my_egress text,                     -- null: any lane
    wanted integer, late_now integer, utilization double precision, my_share double precision,
    lead_s double precision, horizon_s double precision, batch_share double precision,
    OUT now_s double precision,
    OUT refusal text,                   -- empty: granted
    OUT wait_s double precision,        -- it is not worth asking again before
    OUT granted integer, OUT first_slot double precision, OUT spacing_s double precision,
    OUT epoch bigint, OUT hosts integer, OUT not_before double precision,
    OUT pause_s double precision, OUT share double precision, OUT cut_at double precision,
    OUT reach_s double precision, OUT state text
) LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    of_run bulkcert.pace_run;
    asked_of_run bulkcert.pace_run;     -- before the lane was locked
    run_slot double precision;
    my_lane integer;
    account record;
    rates double precision[];           -- of the lane, by scope
    rate double precision;
    others boolean;                     -- hosts of other runs
    last_slot double precision;
BEGIN
    granted := 0; wait_s := 0; refusal := '';
    SELECT * INTO asked_of_run FROM bulkcert.pace_run WHERE run = my_run;
    IF asked_of_run.rate IS NOT NULL THEN
        PERFORM FROM bulkcert.pace_run WHERE run = my_run FOR UPDATE;
    END IF;

    -- the lane that is least advanced; the same in each scope
    SELECT lane INTO my_lane FROM bulkcert.pace_lane
        WHERE scope = my_scopes[1] AND (my_egress IS NULL OR egress = my_egress)
        ORDER BY greatest(next_slot, not_before), lane LIMIT 1;
    PERFORM FROM bulkcert.pace_lane WHERE scope = ANY (my_scopes) AND lane = my_lane
        ORDER BY scope FOR UPDATE;
    now_s := bulkcert.now_s();
    SELECT * INTO of_run FROM bulkcert.pace_run WHERE run = my_run;
    SELECT count(*) AS known, count(l.lane) AS scopes, bool_and(p.server = my_server) AS server,
            min(p.lanes) AS lanes, sum(p.epoch) AS epoch,
            greatest(max(l.next_slot), max(l.not_before)) AS next_slot,
            bool_and(my_egress IS NULL OR l.scope <> my_scopes[1] OR l.egress = my_egress) AS mine,
            max(p.quarantine_until) AS quarantine_until, max(p.not_before) AS not_before,
            max(p.pause_s) AS pause_s, min(p.share) AS share, max(p.cut_at) AS cut_at,
            max(l.reach_s) AS reach_s
        INTO account
        FROM bulkcert.pace p LEFT JOIN bulkcert.pace_lane l ON l.scope = p.scope AND l.lane = my_lane
        WHERE p.scope = ANY (my_scopes);
    epoch := coalesce(account.epoch, 0);
    not_before := coalesce(account.not_before, 0);
    pause_s := coalesce(account.pause_s, 0);
    share := coalesce(account.share, 1);
    cut_at := coalesce(account.cut_at, 0);
    reach_s := greatest(account.reach_s, of_run.reach_s, 0);

    UPDATE bulkcert.pace_host SET late = late_now
        WHERE scope = ANY (my_scopes) AND id = my_id AND late <> late_now;
    SELECT array_agg(s.rate ORDER BY s.scope), max(s.hosts), bool_or(s.others)
        INTO rates, hosts, others
        FROM (
            SELECT scope, count(*) AS hosts, bool_or(run <> my_run) AS others,
                (utilization * min(ceiling) - sum(late)) * my_share / account.lanes AS rate
            FROM bulkcert.pace_host
            WHERE scope = ANY (my_scopes) AND abs(now_s - heard_at) < 10
            GROUP BY scope HAVING bool_or(id = my_id)
        ) s;
    hosts := coalesce(hosts, 0);
    SELECT min(r) INTO rate FROM unnest(rates) r;

    run_slot := account.next_slot;
    IF of_run.rate IS NOT NULL AND of_run.next_slot > greatest(run_slot, now_s + lead_s) THEN
        run_slot := of_run.next_slot;
    END IF;
    IF account.known < cardinality(my_scopes) OR NOT account.server OR account.lanes < my_lanes
    THEN
        refusal := 'server';
    ELSIF my_lane IS NULL OR NOT account.mine THEN
        refusal := 'lane'; wait_s := 0.1;
    ELSIF account.scopes < cardinality(my_scopes) THEN
        refusal := 'server';
    ELSIF coalesce(cardinality(rates), 0) < cardinality(my_scopes) THEN
        refusal := 'host';
    ELSIF of_run.held THEN
        refusal := 'held'; wait_s := 0.1;
    ELSIF of_run.version > my_version THEN
        refusal := 'version'; wait_s := 0.02;
    ELSIF of_run.rate IS NOT NULL AND asked_of_run.rate IS NULL THEN
        refusal := 'version'; wait_s := 0.001;  -- its row is not locked
    ELSIF now_s < account.quarantine_until THEN
        refusal := 'quarantine'; wait_s := account.quarantine_until - now_s;
    ELSIF now_s < account.not_before THEN
        refusal := 'pause'; wait_s := account.not_before - now_s;
    ELSIF rate <= 0 THEN
        refusal := 'late'; wait_s := 0.01;
    ELSIF run_slot > now_s + horizon_s THEN
        refusal := 'ahead'; wait_s := run_slot - now_s - horizon_s;
    ELSIF run_slot > account.next_slot AND others THEN
        -- the slots before this run's next one are for the others
        refusal := 'ahead'; wait_s := run_slot - greatest(account.next_slot, now_s + lead_s);
    END IF;
    IF refusal <> '' THEN
        state := bulkcert.pace_state(my_run, my_scopes);
        RETURN;
    END IF;

    spacing_s := 1 / rate;
    -- With other runs everybody takes few, so that a run with a low rate gets its turn.
    granted := least(wanted, floor(
        CASE WHEN others THEN batch_share ELSE greatest(batch_share, horizon_s / 2 / hosts) END
        * rate)::integer);
    IF of_run.rate IS NOT NULL THEN
        -- Slots that are reserved together are as close as others, so they must be few.
        granted := least(granted, floor(batch_share * of_run.rate)::integer);
    END IF;
    granted := least(wanted, greatest(1, granted));
    IF granted < 1 THEN
        RETURN;
    END IF;
    first_slot := greatest(run_slot, now_s + lead_s);
    last_slot := first_slot + (granted - 1) * spacing_s;
    UPDATE bulkcert.pace_lane SET
        next_slot = last_slot + 1 / rates[array_position(my_scopes, scope)],
        reach_s = (granted - 1) * spacing_s + 1 / rates[array_position(my_scopes, scope)]
        WHERE scope = ANY (my_scopes) AND lane = my_lane;
    IF of_run.rate IS NOT NULL THEN
        UPDATE bulkcert.pace_run SET
            next_slot = first_slot + granted / (utilization * of_run.rate),
            reach_s = granted / (utilization * of_run.rate)
            WHERE run = my_run;
    END IF;
END $$;

-- Starts everything anew, once all that was reserved before has left. With a state, only if that is
-- still the present one. Returns the new epoch, or null if it is not.
CREATE FUNCTION bulkcert.pace_begin_epoch(
    my_run integer, my_server text, my_scopes text[], my_lanes integer,
    known_epoch bigint,                 -- the last one that the host has heard of
    expected_s double precision,        -- what the clock would show if it had not stepped; or null
    span_s double precision, horizon_s double precision, slot_s double precision,
    state_before text DEFAULT NULL
) RETURNS bigint LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    now_s double precision;
    until_s double precision;
    lanes_now integer;
    epochs bigint;
BEGIN
    PERFORM FROM bulkcert.pace_run WHERE run = my_run FOR UPDATE;
    INSERT INTO bulkcert.pace (scope, server, epoch, lanes, quarantine_until)
        SELECT s, '', 0, 1, 0 FROM unnest(my_scopes) s ORDER BY s COLLATE "C"
        ON CONFLICT DO NOTHING;
    SELECT greatest(my_lanes, max(lanes)) INTO lanes_now
        FROM bulkcert.pace WHERE scope = ANY (my_scopes);
    INSERT INTO bulkcert.pace_lane (scope, lane, next_slot)
        SELECT s, l, 0 FROM unnest(my_scopes) s, generate_series(0, lanes_now - 1) l
        ORDER BY s COLLATE "C", l ON CONFLICT DO NOTHING;
    PERFORM FROM bulkcert.pace_lane WHERE scope = ANY (my_scopes) ORDER BY scope, lane FOR UPDATE;
    IF state_before <> bulkcert.pace_state(my_run, my_scopes) THEN
        RETURN NULL;
    END IF;
    now_s := bulkcert.now_s();
    SELECT now_s + greatest(span_s, horizon_s + slot_s + max(reach_s)) INTO until_s
        FROM bulkcert.pace_lane WHERE scope = ANY (my_scopes);
    PERFORM FROM bulkcert.pace WHERE scope = ANY (my_scopes) ORDER BY scope FOR NO KEY UPDATE;
    SELECT sum(epoch) INTO epochs FROM bulkcert.pace WHERE scope = ANY (my_scopes);
    UPDATE bulkcert.pace SET
        server = my_server,
        epoch = epoch + 1,
        lanes = greatest(lanes, lanes_now),
        quarantine_until = until_s,
        -- a pause ends when it would have
        not_before = CASE
            WHEN epochs = known_epoch AND expected_s IS NOT NULL
                THEN now_s + least(pause_s, not_before - expected_s)
            ELSE least(not_before, now_s + pause_s)
        END,
        cut_at = least(until_s, CASE
            WHEN epochs = known_epoch AND expected_s IS NOT NULL THEN now_s + cut_at - expected_s
            ELSE cut_at
        END)
        WHERE scope = ANY (my_scopes);
    UPDATE bulkcert.pace_lane SET next_slot = until_s, reach_s = 0, not_before = 0
        WHERE scope = ANY (my_scopes);
    UPDATE bulkcert.pace_run SET next_slot = until_s, reach_s = 0 WHERE run = my_run;
    RETURN epochs + cardinality(my_scopes);
END $$;

-- The provider has asked a host to wait. Responses to what left before the last cut belong to that.
CREATE FUNCTION bulkcert.pace_slow_down(
    my_scopes text[], departed_s double precision, my_pause_s double precision,
    my_share double precision
) RETURNS void LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    now_s double precision;
BEGIN
    PERFORM FROM bulkcert.pace WHERE scope = ANY (my_scopes) ORDER BY scope FOR NO KEY UPDATE;
    now_s := bulkcert.now_s();
    UPDATE bulkcert.pace p SET
        share = CASE WHEN departed_s > cut_at THEN my_share ELSE least(share, my_share) END,
        cut_at = CASE WHEN departed_s > cut_at THEN greatest(now_s, (
                SELECT max(l.next_slot) FROM bulkcert.pace_lane l WHERE l.scope = p.scope
            )) ELSE cut_at END,
        pause_s = CASE WHEN now_s + my_pause_s > not_before THEN my_pause_s ELSE pause_s END,
        not_before = greatest(not_before, now_s + my_pause_s)
        WHERE scope = ANY (my_scopes);
END $$;

-- A host is there. Ways out that are gone give back their lanes, and this one takes what it may
-- have, `most` at most; null if addresses have no limit. Returns how many lanes it has.
CREATE FUNCTION bulkcert.pace_join(
    my_id uuid, my_run integer, my_scopes text[], my_ceiling double precision, my_egress text,
    late_now integer, most integer, hold_s double precision
) RETURNS integer LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    now_s double precision;
    egresses integer;
    fair integer;
    has integer;
BEGIN
    IF most IS NOT NULL THEN
        PERFORM FROM bulkcert.pace_lane WHERE scope = my_scopes[1] ORDER BY lane FOR UPDATE;
    END IF;
    now_s := bulkcert.now_s();
    DELETE FROM bulkcert.pace_host
        WHERE scope = ANY (my_scopes) AND abs(now_s - heard_at) > 86400;
    INSERT INTO bulkcert.pace_host
        SELECT s, my_id, my_run, my_ceiling, my_egress, late_now, now_s
        FROM unnest(my_scopes) s ORDER BY s COLLATE "C"
        ON CONFLICT (scope, id) DO UPDATE SET
            ceiling = my_ceiling, late = late_now, heard_at = excluded.heard_at;
    IF most IS NULL THEN
        RETURN 0;
    END IF;
    UPDATE bulkcert.pace_lane l SET egress = NULL
        WHERE scope = my_scopes[1] AND egress IS NOT NULL AND NOT EXISTS (
            SELECT FROM bulkcert.pace_host h
            WHERE h.scope = l.scope AND h.egress = l.egress AND abs(now_s - h.heard_at) < 10);
    SELECT count(DISTINCT egress) INTO egresses FROM bulkcert.pace_host
        WHERE scope = my_scopes[1] AND abs(now_s - heard_at) < 10;
    SELECT ceil(count(*)::double precision / egresses), count(*) FILTER (WHERE egress = my_egress)
        INTO fair, has
        FROM bulkcert.pace_lane WHERE scope = my_scopes[1];
    fair := least(most, fair);
    UPDATE bulkcert.pace_lane SET egress = NULL
        WHERE scope = my_scopes[1] AND lane IN (
            SELECT lane FROM bulkcert.pace_lane
            WHERE scope = my_scopes[1] AND egress = my_egress
            ORDER BY lane DESC LIMIT greatest(0, has - fair));
    -- Held for as long as slots may be left that this way out has in lanes that it has lost.
    UPDATE bulkcert.pace_lane SET egress = my_egress, not_before = now_s + hold_s
        WHERE scope = my_scopes[1] AND lane IN (
            SELECT lane FROM bulkcert.pace_lane
            WHERE scope = my_scopes[1] AND egress IS NULL
            ORDER BY lane LIMIT greatest(0, fair - has));
    SELECT count(*) INTO has FROM bulkcert.pace_lane
        WHERE scope = my_scopes[1] AND egress = my_egress;
    RETURN has;
END $$;

-- A host sends nothing more. What it has sent and may still arrive counts until it is forgotten.
CREATE FUNCTION bulkcert.pace_leave(my_id uuid, my_scopes text[]) RETURNS void
LANGUAGE sql VOLATILE AS $$
    DELETE FROM bulkcert.pace_host WHERE scope = ANY (my_scopes) AND id = my_id AND late = 0
$$;
