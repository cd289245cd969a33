package pgfuncs

import "context"

// FlushStatistics makes the sessions' counters visible to other sessions.
func (db *DB) FlushStatistics(ctx context.Context) error {
	_, err := db.pool.Exec(ctx, `select pg_stat_force_next_flush()`)
	return err
}
