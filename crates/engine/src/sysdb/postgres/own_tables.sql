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
