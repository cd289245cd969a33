package pgfuncs_test

import (
	"strings"
	"testing"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/canopysync/canopy/pgfuncs"
)

// issue notes a token that expires at the given distance from now.
func (d database) issue(t *testing.T, id string, expires time.Duration) pgfuncs.IssuedToken {
	t.Helper()
	now := time.Now().Truncate(time.Microsecond)
	token := pgfuncs.IssuedToken{
		ID: id, Subject: "ann", Rooms: []byte(`[{"room": "team-*", "access": "write"}]`),
		Issued: now, Expires: now.Add(expires),
	}
	if err := d.IssueToken(t.Context(), token); err != nil {
		t.Fatal(err)
	}
	return token
}

func (d database) revoke(t *testing.T, id string, foreign bool) (time.Time, bool) {
	t.Helper()
	at, ok, err := d.RevokeToken(t.Context(), id, foreign)
	if err != nil {
		t.Fatal(err)
	}
	return at, ok
}

func (d database) revocations(t *testing.T, after int64, limit int) (ids string, last, head int64) {
	t.Helper()
	list, head, err := d.RevocationsAfter(t.Context(), after, limit)
	if err != nil {
		t.Fatal(err)
	}
	var all []string
	for _, r := range list {
		if r.Version <= last || r.Version > head {
			t.Errorf("version %d after %d, head %d", r.Version, last, head)
		}
		last = r.Version
		all = append(all, r.ID)
	}
	return strings.Join(all, " "), last, head
}

func TestTokens(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	if ids, _, head := db.revocations(t, 0, 10); ids != "" || head != 0 {
		t.Errorf("at first %q are revoked, head %d", ids, head)
	}
	a := db.issue(t, "a", time.Hour)
	db.issue(t, `b'; drop table canopy.issued_tokens; -- $$`, -time.Hour)
	if err := db.IssueToken(t.Context(), a); err == nil {
		t.Error("an id was issued twice")
	}
	at, ok := db.revoke(t, "a", false)
	if again, okAgain := db.revoke(t, "a", false); !ok || !okAgain || !at.Equal(again) {
		t.Errorf("revoked at %v (%v), again at %v (%v)", at, ok, again, okAgain)
	}
	if _, ok := db.revoke(t, "elsewhere", false); ok {
		t.Error("a token that was not issued here was revoked without being told to")
	}
	if _, ok := db.revoke(t, "elsewhere", true); !ok {
		t.Error("a foreign token was not revoked")
	}
	for _, id := range []string{"", strings.Repeat("x", 129)} {
		if _, _, err := db.RevokeToken(t.Context(), id, true); err == nil {
			t.Errorf("an id of %d bytes was taken", len(id))
		}
	}

	valid, err := db.IssuedTokens(t.Context(), false)
	if err != nil || len(valid) != 1 {
		t.Fatalf("valid tokens: %+v (%v)", valid, err)
	}
	got := valid[0]
	if got.ID != "a" || got.Subject != a.Subject || string(got.Rooms) != string(a.Rooms) ||
		!got.Issued.Equal(a.Issued) || !got.Expires.Equal(a.Expires) || !got.Revoked.Equal(at) {
		t.Errorf("got %+v, want %+v revoked at %v", got, a, at)
	}
	all, err := db.IssuedTokens(t.Context(), true)
	if err != nil || len(all) != 2 || !all[0].Revoked.IsZero() {
		t.Errorf("all tokens: %+v (%v)", all, err)
	}

	ids, last, head := db.revocations(t, 0, 10)
	if ids != "a elsewhere" || last != head {
		t.Errorf("%q are revoked, up to %d of %d", ids, last, head)
	}
	if ids, _, _ := db.revocations(t, 0, 1); ids != "a" {
		t.Errorf("the first revocation is %q", ids)
	}
	if ids, _, again := db.revocations(t, head, 10); ids != "" || again != head {
		t.Errorf("after the last there is %q, head %d", ids, again)
	}
}

// Whoever has seen a version has seen everything before it, however revocations overtake each other.
func TestRevocationsAreSeenInOrder(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	const writers, each = 4, 25
	var revoking errgroup.Group
	for w := range writers {
		revoking.Go(func() error {
			for i := range each {
				id := string(rune('a'+w)) + string(rune('a'+i))
				if _, _, err := db.RevokeToken(t.Context(), id, true); err != nil {
					return err
				}
			}
			return nil
		})
	}
	seen := map[string]bool{}
	for last := int64(0); len(seen) < writers*each; {
		list, _, err := db.RevocationsAfter(t.Context(), last, 7)
		if err != nil {
			t.Fatal(err)
		}
		for _, r := range list {
			if r.Version != last+1 || seen[r.ID] {
				t.Fatalf("%q with version %d after %d", r.ID, r.Version, last)
			}
			last, seen[r.ID] = r.Version, true
		}
	}
	if err := revoking.Wait(); err != nil {
		t.Fatal(err)
	}
}

// What no leeway reaches any more is forgotten, or the list would grow for ever.
func TestExpiredTokensAreForgotten(t *testing.T) {
	t.Parallel()
	db := openDatabase(t)
	db.issue(t, "ancient", -91*24*time.Hour)
	db.issue(t, "old", -25*time.Hour)
	db.issue(t, "recent", -time.Hour)
	for _, id := range []string{"old", "recent", "foreign"} {
		db.revoke(t, id, id == "foreign")
	}
	if ids, _, _ := db.revocations(t, 0, 10); ids != "recent foreign" {
		t.Errorf("%q are kept", ids)
	}
	all, err := db.IssuedTokens(t.Context(), true)
	if err != nil || len(all) != 2 {
		t.Errorf("issued: %+v (%v)", all, err)
	}
}
