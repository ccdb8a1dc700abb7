-- The DBOS system tables at schema version 125, as all DBOS SDKs know them. One script, run in one transaction.
-- Times are milliseconds since the Unix epoch.

CREATE SCHEMA IF NOT EXISTS {schema};

CREATE TABLE {schema}.dbos_migrations (
    version bigint NOT NULL,
    CONSTRAINT dbos_migrations_pkey PRIMARY KEY (version)
);

CREATE TABLE {schema}.workflow_status (
    workflow_uuid text NOT NULL,
    status text,
    name text,
    authenticated_user text,
    assumed_role text,
    authenticated_roles text,
    request text,
    output text,
    error text,
    executor_id text,
    created_at bigint NOT NULL DEFAULT (EXTRACT(epoch FROM now()) * 1000.0)::bigint,
    updated_at bigint NOT NULL DEFAULT (EXTRACT(epoch FROM now()) * 1000.0)::bigint,
    application_version text,
    application_id text,
    class_name varchar(255) DEFAULT NULL::varchar,
    config_name varchar(255) DEFAULT NULL::varchar,
    recovery_attempts bigint DEFAULT 0,
    queue_name text,
    workflow_timeout_ms bigint,
    workflow_deadline_epoch_ms bigint,
    inputs text,
    started_at_epoch_ms bigint,
    deduplication_id text,
    priority integer NOT NULL DEFAULT 0,
    queue_partition_key text,
    forked_from text,
    owner_xid text,
    parent_workflow_id text,
    serialization text,
    delay_until_epoch_ms bigint,
    was_forked_from boolean NOT NULL DEFAULT false,
    rate_limited boolean NOT NULL DEFAULT false,
    completed_at bigint,
    attributes jsonb,
    schedule_name text,
    debounce_deadline_epoch_ms bigint,
    is_debounced boolean NOT NULL DEFAULT false,
    application_name text,
    creator_xid text,
    CONSTRAINT workflow_status_pkey PRIMARY KEY (workflow_uuid)
);

CREATE TABLE {schema}.workflow_input (
    workflow_uuid text NOT NULL,
    inputs text,
    retention_timestamp bigint NOT NULL DEFAULT (EXTRACT(epoch FROM now()) * 1000.0)::bigint,
    CONSTRAINT workflow_input_pkey PRIMARY KEY (workflow_uuid)
);

CREATE TABLE {schema}.workflow_output (
    workflow_uuid text NOT NULL,
    output text,
    error text,
    retention_timestamp bigint NOT NULL DEFAULT (EXTRACT(epoch FROM now()) * 1000.0)::bigint,
    CONSTRAINT workflow_output_pkey PRIMARY KEY (workflow_uuid)
);

CREATE TABLE {schema}.operation_outputs (
    workflow_uuid text NOT NULL,
    function_id integer NOT NULL,
    function_name text NOT NULL DEFAULT '',
    output text,
    error text,
    child_workflow_id text,
    started_at_epoch_ms bigint,
    completed_at_epoch_ms bigint,
    serialization text,
    application_name text,
    retention_timestamp bigint NOT NULL DEFAULT (EXTRACT(epoch FROM now()) * 1000.0)::bigint,
    CONSTRAINT operation_outputs_pkey PRIMARY KEY (workflow_uuid, function_id)
);

CREATE TABLE {schema}.notifications (
    message_uuid text NOT NULL DEFAULT gen_random_uuid(),
    destination_uuid text NOT NULL,
    topic text,
    message text NOT NULL,
    created_at_epoch_ms bigint NOT NULL DEFAULT (EXTRACT(epoch FROM now()) * 1000.0)::bigint,
    serialization text,
    consumed boolean NOT NULL DEFAULT false,
    consumed_by_function_id integer,
    CONSTRAINT notifications_destination_uuid_fkey FOREIGN KEY (destination_uuid) REFERENCES {schema}.workflow_status(workflow_uuid) ON UPDATE CASCADE ON DELETE CASCADE,
    CONSTRAINT notifications_pkey PRIMARY KEY (message_uuid)
);

CREATE TABLE {schema}.workflow_events (
    workflow_uuid text NOT NULL,
    key text NOT NULL,
    value text NOT NULL,
    serialization text,
    CONSTRAINT workflow_events_pkey PRIMARY KEY (workflow_uuid, key),
    CONSTRAINT workflow_events_workflow_uuid_fkey FOREIGN KEY (workflow_uuid) REFERENCES {schema}.workflow_status(workflow_uuid) ON UPDATE CASCADE ON DELETE CASCADE
);

CREATE TABLE {schema}.workflow_events_history (
    workflow_uuid text NOT NULL,
    function_id integer NOT NULL,
    key text NOT NULL,
    value text NOT NULL,
    serialization text,
    CONSTRAINT workflow_events_history_pkey PRIMARY KEY (workflow_uuid, function_id, key),
    CONSTRAINT workflow_events_history_workflow_uuid_fkey FOREIGN KEY (workflow_uuid) REFERENCES {schema}.workflow_status(workflow_uuid) ON UPDATE CASCADE ON DELETE CASCADE
);

CREATE TABLE {schema}.streams (
    workflow_uuid text NOT NULL,
    key text NOT NULL,
    value text NOT NULL,
    "offset" integer NOT NULL,
    function_id integer NOT NULL DEFAULT 0,
    serialization text,
    CONSTRAINT streams_pkey PRIMARY KEY (workflow_uuid, key, "offset"),
    CONSTRAINT streams_workflow_uuid_fkey FOREIGN KEY (workflow_uuid) REFERENCES {schema}.workflow_status(workflow_uuid) ON UPDATE CASCADE ON DELETE CASCADE
);

CREATE TABLE {schema}.queues (
    queue_id text NOT NULL DEFAULT gen_random_uuid()::text,
    name text NOT NULL,
    concurrency integer,
    worker_concurrency integer,
    rate_limit_max integer,
    rate_limit_period_sec double precision,
    priority_enabled boolean NOT NULL DEFAULT false,
    partition_queue boolean NOT NULL DEFAULT false,
    polling_interval_sec double precision NOT NULL DEFAULT 1.0,
    created_at bigint NOT NULL DEFAULT (EXTRACT(epoch FROM now()) * 1000.0)::bigint,
    updated_at bigint NOT NULL DEFAULT (EXTRACT(epoch FROM now()) * 1000.0)::bigint,
    application_name text,
    partition_concurrency integer,
    partition_worker_concurrency integer,
    partition_rate_limit_max integer,
    partition_rate_limit_period_sec double precision,
    CONSTRAINT queues_name_key UNIQUE (name),
    CONSTRAINT queues_pkey PRIMARY KEY (queue_id)
);

CREATE TABLE {schema}.workflow_schedules (
    schedule_id text NOT NULL,
    schedule_name text NOT NULL,
    workflow_name text NOT NULL,
    workflow_class_name text,
    schedule text NOT NULL,
    status text NOT NULL DEFAULT 'ACTIVE',
    context text NOT NULL,
    last_fired_at text,
    automatic_backfill boolean NOT NULL DEFAULT false,
    cron_timezone text,
    queue_name text,
    application_name text,
    CONSTRAINT workflow_schedules_pkey PRIMARY KEY (schedule_id),
    CONSTRAINT workflow_schedules_schedule_name_key UNIQUE (schedule_name)
);

CREATE TABLE {schema}.application_versions (
    version_id text NOT NULL,
    version_name text NOT NULL,
    version_timestamp bigint NOT NULL DEFAULT (EXTRACT(epoch FROM now()) * 1000.0)::bigint,
    created_at bigint NOT NULL DEFAULT (EXTRACT(epoch FROM now()) * 1000.0)::bigint,
    application_name text,
    CONSTRAINT application_versions_pkey PRIMARY KEY (version_id),
    CONSTRAINT application_versions_version_name_key UNIQUE (version_name)
);

CREATE TABLE {schema}.event_dispatch_kv (
    service_name text NOT NULL,
    workflow_fn_name text NOT NULL,
    key text NOT NULL,
    value text,
    update_seq numeric,
    update_time numeric,
    CONSTRAINT event_dispatch_kv_pkey PRIMARY KEY (service_name, workflow_fn_name, key)
);

CREATE INDEX idx_application_versions_owner_timestamp
    ON {schema}.application_versions (application_name, version_timestamp DESC);
CREATE INDEX idx_application_versions_timestamp
    ON {schema}.application_versions (version_timestamp DESC);
CREATE UNIQUE INDEX uq_application_versions_owner_version
    ON {schema}.application_versions (application_name, version_name)
    WHERE (application_name IS NOT NULL);
CREATE UNIQUE INDEX uq_application_versions_unclaimed_version
    ON {schema}.application_versions (version_name)
    WHERE (application_name IS NULL);
CREATE INDEX idx_workflow_topic
    ON {schema}.notifications (destination_uuid, topic);
CREATE INDEX idx_operation_outputs_completed_at_function_name_v2
    ON {schema}.operation_outputs (completed_at_epoch_ms, function_name)
    INCLUDE (application_name);
CREATE INDEX idx_operation_outputs_retention
    ON {schema}.operation_outputs (retention_timestamp);
CREATE INDEX idx_workflow_input_retention
    ON {schema}.workflow_input (retention_timestamp);
CREATE INDEX idx_workflow_output_retention
    ON {schema}.workflow_output (retention_timestamp);
CREATE INDEX idx_workflow_status_attributes
    ON {schema}.workflow_status USING gin (attributes)
    WHERE (attributes IS NOT NULL);
CREATE INDEX idx_workflow_status_completed_at
    ON {schema}.workflow_status (completed_at)
    WHERE (completed_at IS NOT NULL);
CREATE INDEX idx_workflow_status_deadline
    ON {schema}.workflow_status (workflow_deadline_epoch_ms)
    WHERE ((status IN ('ENQUEUED', 'PENDING', 'DELAYED')) AND (workflow_deadline_epoch_ms IS NOT NULL));
CREATE INDEX idx_workflow_status_delayed
    ON {schema}.workflow_status (delay_until_epoch_ms)
    WHERE (status = 'DELAYED');
CREATE INDEX idx_workflow_status_failed
    ON {schema}.workflow_status (status, created_at)
    WHERE (status IN ('ERROR', 'CANCELLED', 'MAX_RECOVERY_ATTEMPTS_EXCEEDED'));
CREATE INDEX idx_workflow_status_forked_from
    ON {schema}.workflow_status (forked_from)
    WHERE (forked_from IS NOT NULL);
CREATE INDEX idx_workflow_status_in_flight_v2
    ON {schema}.workflow_status (queue_name, status, priority, created_at)
    INCLUDE (application_name)
    WHERE (status IN ('ENQUEUED', 'PENDING'));
CREATE INDEX idx_workflow_status_parent_workflow_id
    ON {schema}.workflow_status (parent_workflow_id)
    WHERE (parent_workflow_id IS NOT NULL);
CREATE INDEX idx_workflow_status_partition_dequeue_v3
    ON {schema}.workflow_status (queue_name, status, queue_partition_key, priority, created_at, workflow_uuid)
    INCLUDE (application_name)
    WHERE ((status IN ('ENQUEUED', 'PENDING')) AND (queue_partition_key IS NOT NULL));
CREATE INDEX idx_workflow_status_pending
    ON {schema}.workflow_status (created_at)
    WHERE (status = 'PENDING');
CREATE INDEX idx_workflow_status_rate_limited
    ON {schema}.workflow_status (queue_name, started_at_epoch_ms)
    WHERE (rate_limited = true);
CREATE INDEX idx_workflow_status_schedule_name
    ON {schema}.workflow_status (schedule_name)
    WHERE (schedule_name IS NOT NULL);
CREATE INDEX idx_workflow_status_started_at
    ON {schema}.workflow_status (started_at_epoch_ms)
    WHERE (started_at_epoch_ms IS NOT NULL);
CREATE UNIQUE INDEX uq_workflow_status_dedup_id
    ON {schema}.workflow_status (queue_name, deduplication_id)
    WHERE (deduplication_id IS NOT NULL);
CREATE INDEX workflow_status_created_at_index
    ON {schema}.workflow_status (created_at);

-- Tells of each message, for those who listen.
CREATE FUNCTION {schema}.notifications_function() RETURNS trigger
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    PERFORM pg_notify('dbos_notifications_channel', concat(NEW.destination_uuid, '::', NEW.topic));
    RETURN NULL;
END
$body$;

CREATE TRIGGER dbos_notifications_trigger AFTER INSERT ON {schema}.notifications
    FOR EACH ROW EXECUTE FUNCTION {schema}.notifications_function();

-- A message to a workflow, for programs that speak only SQL.
CREATE FUNCTION {schema}.send_message(
    destination_id text, message json, topic text DEFAULT NULL, message_id text DEFAULT NULL
) RETURNS void
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $body$
BEGIN
    INSERT INTO {schema}.notifications (message_uuid, destination_uuid, topic, message, serialization)
    VALUES (COALESCE(send_message.message_id, gen_random_uuid()::text), send_message.destination_id,
            COALESCE(send_message.topic, '__null__topic__'), send_message.message::text, 'portable_json')
        ON CONFLICT (message_uuid) DO NOTHING;
EXCEPTION
    WHEN foreign_key_violation THEN
        RAISE EXCEPTION USING
            MESSAGE = 'DBOS non-existent workflow',
            DETAIL = format('Destination workflow %s does not exist', send_message.destination_id),
            ERRCODE = 'foreign_key_violation';
END
$body$;

-- A new workflow on a queue, for programs that speak only SQL. Gives its id.
CREATE FUNCTION {schema}.enqueue_workflow(
    workflow_name text,
    queue_name text,
    positional_args json[] DEFAULT ARRAY[]::json[],
    named_args json DEFAULT '{}'::json,
    class_name text DEFAULT NULL,
    config_name text DEFAULT NULL,
    workflow_id text DEFAULT NULL,
    app_version text DEFAULT NULL,
    timeout_ms bigint DEFAULT NULL,
    deadline_epoch_ms bigint DEFAULT NULL,
    deduplication_id text DEFAULT NULL,
    priority integer DEFAULT NULL,
    queue_partition_key text DEFAULT NULL,
    authenticated_user text DEFAULT NULL,
    authenticated_roles text DEFAULT NULL,
    delay_until_epoch_ms bigint DEFAULT NULL,
    application_name text DEFAULT NULL
) RETURNS text
    LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp
AS $body$
#variable_conflict use_column
DECLARE
    id text := COALESCE(enqueue_workflow.workflow_id, gen_random_uuid()::text);
    now_ms bigint := (EXTRACT(epoch FROM now()) * 1000.0)::bigint;
BEGIN
    IF COALESCE(enqueue_workflow.workflow_name, '') = '' THEN
        RAISE EXCEPTION 'Workflow name cannot be null or empty';
    END IF;
    IF COALESCE(enqueue_workflow.queue_name, '') = '' THEN
        RAISE EXCEPTION 'Queue name cannot be null or empty';
    END IF;
    IF enqueue_workflow.named_args IS NOT NULL AND json_typeof(enqueue_workflow.named_args) <> 'object' THEN
        RAISE EXCEPTION 'Named args must be a JSON object';
    END IF;
    IF id = '' THEN
        RAISE EXCEPTION 'Workflow ID cannot be an empty string if provided.';
    END IF;
    IF enqueue_workflow.delay_until_epoch_ms < 0 THEN
        RAISE EXCEPTION 'delay_until_epoch_ms must be >= 0';
    END IF;
    INSERT INTO {schema}.workflow_status AS existing
           (workflow_uuid, status, name, class_name, config_name, queue_name, deduplication_id, priority,
            queue_partition_key, application_version, application_name, workflow_timeout_ms,
            workflow_deadline_epoch_ms, authenticated_user, authenticated_roles, delay_until_epoch_ms,
            recovery_attempts, created_at, updated_at, owner_xid, serialization)
    VALUES (id,
            CASE WHEN enqueue_workflow.delay_until_epoch_ms IS NULL THEN 'ENQUEUED' ELSE 'DELAYED' END,
            enqueue_workflow.workflow_name, enqueue_workflow.class_name, enqueue_workflow.config_name,
            enqueue_workflow.queue_name, enqueue_workflow.deduplication_id,
            COALESCE(enqueue_workflow.priority, 0), enqueue_workflow.queue_partition_key,
            enqueue_workflow.app_version, enqueue_workflow.application_name, enqueue_workflow.timeout_ms,
            enqueue_workflow.deadline_epoch_ms, enqueue_workflow.authenticated_user,
            enqueue_workflow.authenticated_roles, enqueue_workflow.delay_until_epoch_ms,
            0, now_ms, now_ms, gen_random_uuid()::text, 'portable_json')
        ON CONFLICT (workflow_uuid) DO UPDATE SET updated_at = excluded.updated_at;
    INSERT INTO {schema}.workflow_input (workflow_uuid, inputs)
    VALUES (id, json_build_object('positionalArgs', enqueue_workflow.positional_args,
                                  'namedArgs', enqueue_workflow.named_args)::text)
        ON CONFLICT (workflow_uuid) DO NOTHING;
    RETURN id;
EXCEPTION
    WHEN unique_violation THEN
        RAISE EXCEPTION USING
            MESSAGE = 'DBOS queue duplicated',
            DETAIL = format('Workflow %s with queue %s and deduplication ID %s already exists', id,
                            enqueue_workflow.queue_name, COALESCE(enqueue_workflow.deduplication_id, 'NULL')),
            ERRCODE = 'unique_violation';
END
$body$;

INSERT INTO {schema}.dbos_migrations (version) VALUES (125);
