-- Limits of queues that the DBOS tables have no column for, by the name of the queue.
CREATE TABLE IF NOT EXISTS piton_queues (
    name TEXT PRIMARY KEY NOT NULL,
    in_flight INTEGER NOT NULL
);

-- Who holds a place in such a queue: workflows that have begun. A row of one that has ended, or left the queue, counts no
-- more; the next claim removes it.
CREATE TABLE IF NOT EXISTS piton_places (
    queue_name TEXT NOT NULL,
    workflow_uuid TEXT NOT NULL,
    PRIMARY KEY (queue_name, workflow_uuid)
) WITHOUT ROWID;
