package pgfuncs

import "context"

// FlushStatistics makes the sessions' counters visible to other sessions.
func (db *DB) FlushStatistics(ctx context.Context) error {
	_, err := db.pool.Exec(ctx, `select pg_stat_force_next_flush()`)
	return err
}

// TerminateListeners ends the connections that listen, and returns how many there were.
func (db *DB) TerminateListeners(ctx context.Context) (n int, err error) {
	err = db.pool.QueryRow(ctx, `
		select count(pg_terminate_backend(pid)) from pg_stat_activity
		where datname = current_database() and application_name = 'canopy listen'`).Scan(&n)
	return n, err
}

// Notify sends one payload as it is.
func (db *DB) Notify(ctx context.Context, payload string) error {
	_, err := db.pool.Exec(ctx, notifySQL, []string{payload})
	return err
}

// Channel is the name of the channel that Transport uses.
func (db *DB) Channel(ctx context.Context) (name string, err error) {
	err = db.pool.QueryRow(ctx, `select name from canopy.notify_channel`).Scan(&name)
	return name, err
}
