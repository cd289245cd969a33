package pgfuncs

import (
	"context"
	"encoding/json"
	"time"

	"github.com/jackc/pgx/v5"
)

// IssuedToken is the record of a token that was issued here, never the token itself.
type IssuedToken struct {
	ID      string          // the claim jti
	Subject string          // the claim sub
	Rooms   json.RawMessage // the claim rooms
	Issued  time.Time
	Expires time.Time
	Revoked time.Time // zero if it was not
}

// Revocation is one revoked token.
type Revocation struct {
	Version int64
	ID      string
	Expires time.Time // zero if unknown
}

// IssueToken records a token before it is handed out. Its ID must be new.
func (db *DB) IssueToken(ctx context.Context, token IssuedToken) error {
	_, err := db.pool.Exec(ctx, `select canopy.issue_token($1, $2, $3, $4, $5)`,
		token.ID, token.Subject, token.Rooms, token.Issued, token.Expires)
	if err != nil {
		return domainError("record issued token", err)
	}
	return nil
}

// RevokeToken revokes a token and returns the time of its first revocation; ok is false if the token was not
// issued here and foreign is not set.
func (db *DB) RevokeToken(ctx context.Context, id string, foreign bool) (at time.Time, ok bool, err error) {
	var revoked *time.Time
	if err := db.pool.QueryRow(ctx, `select canopy.revoke_token($1, $2)`, id, foreign).Scan(&revoked); err != nil {
		return time.Time{}, false, domainError("revoke token", err)
	}
	if revoked == nil {
		return time.Time{}, false, nil
	}
	return *revoked, true, nil
}

// IssuedTokens lists the tokens issued here, newest first: all that are still recorded, or only those that
// have not expired.
func (db *DB) IssuedTokens(ctx context.Context, all bool) ([]IssuedToken, error) {
	rows, _ := db.pool.Query(ctx, `
		select i.token_id, i.subject, i.rooms, i.issued_at, i.expires_at, r.revoked_at
		  from canopy.issued_tokens i
		  left join canopy.revoked_tokens r using (token_id)
		 where $1 or i.expires_at > now()
		 order by i.issued_at desc, i.token_id`, all)
	tokens, err := pgx.CollectRows(rows, func(row pgx.CollectableRow) (t IssuedToken, err error) {
		var revoked *time.Time
		err = row.Scan(&t.ID, &t.Subject, &t.Rooms, &t.Issued, &t.Expires, &revoked)
		t.Revoked = orZero(revoked)
		return t, err
	})
	if err != nil {
		return nil, domainError("list issued tokens", err)
	}
	return tokens, nil
}

// orZero returns the time, or zero for nil.
func orZero(t *time.Time) time.Time {
	if t == nil {
		return time.Time{}
	}
	return *t
}

// RevocationsAfter returns at most limit revocations with a version greater than after, in order of version,
// and as head the greatest version ever given, all at the same moment. A head below after means an
// older history: the database was restored from a backup.
func (db *DB) RevocationsAfter(ctx context.Context, after int64, limit int) (list []Revocation, head int64, err error) {
	rows, _ := db.pool.Query(ctx, `
		select h.version, r.version, r.token_id, r.expires_at
		  from canopy.revocation_head h
		  left join lateral (
		         select *
		           from canopy.revoked_tokens
		          where version > $1
		          order by version
		          limit $2) r on true
		 order by r.version`, after, limit)
	var version *int64
	var id *string
	var expires *time.Time
	_, err = pgx.ForEachRow(rows, []any{&head, &version, &id, &expires}, func() error {
		if version == nil {
			return nil // no revocations
		}
		list = append(list, Revocation{Version: *version, ID: *id, Expires: orZero(expires)})
		return nil
	})
	if err != nil {
		return nil, 0, domainError("read revocations", err)
	}
	return list, head, nil
}
