-- Who lives: one row for each executor, renewed by it, on the server's clock.
CREATE TABLE IF NOT EXISTS {schema}.piton_executors (
    executor_id text PRIMARY KEY,
    application_name text NOT NULL,
    application_version text NOT NULL,
    workflows jsonb NOT NULL,
    queues jsonb NOT NULL,
    host text,
    pid integer,
    joined_at timestamptz NOT NULL DEFAULT now(),
    lease_until timestamptz NOT NULL
);

-- Limits of queues that the DBOS tables have no column for, by the name of the queue.
CREATE TABLE IF NOT EXISTS {schema}.piton_queues (
    name text PRIMARY KEY,
    in_flight integer NOT NULL
);

-- Who holds a place in such a queue: workflows that have begun. A row of one that has ended, or left the queue, counts no
-- more; the next claim removes it.
CREATE TABLE IF NOT EXISTS {schema}.piton_places (
    queue_name text NOT NULL,
    workflow_uuid text NOT NULL,
    PRIMARY KEY (queue_name, workflow_uuid)
);
