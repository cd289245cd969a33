package bootstrap

import "testing"

func TestNegotiate(t *testing.T) {
	t.Parallel()
	const neither coding = ""
	tests := []struct {
		accept string
		want   coding
	}{
		{"", identity},
		{"zstd", zstdCode},
		{"ZSTD", zstdCode},
		{"gzip, deflate", identity},
		{"gzip, zstd", zstdCode},
		{" gzip ,\tzstd ; q=0.8 ", zstdCode},
		{"zstd;q=0", identity},
		{"zstd;q=0.000", identity},
		{"zstd;q=0.5, identity", identity},
		{"zstd;q=0.5, identity;q=0.5", zstdCode},
		{"zstd;Q=1, identity;q=0.5", zstdCode},
		{"*", identity},
		{"*;q=0.1", identity},
		{"*, identity;q=0", zstdCode},
		{"*;q=0", neither},
		{"*;q=0, zstd", zstdCode},
		{"*;q=0, identity", identity},
		{"identity;q=0", neither},
		{"identity;q=0, gzip", neither},
		{"identity;q=0, zstd;q=0.1", zstdCode},
		{"identity;q=0, zstd;q=0, *", neither},
		{"zstd;q=nan, identity;q=0.5", identity},
		{"zstd;q=1.5", identity},
		{"zstd;q=-1", identity},
		{"zstd;q=0.1234", identity},
		{"zstd;level=3", identity},
		{"xzstd", identity},
		{",,;,", identity},
	}
	for _, tt := range tests {
		got, ok := negotiate([]string{tt.accept})
		if got != tt.want || ok != (tt.want != neither) {
			t.Errorf("%q: %q, %v, want %q", tt.accept, got, ok, tt.want)
		}
	}
	if got, _ := negotiate(nil); got != identity {
		t.Errorf("no header: %q", got)
	}
	if got, _ := negotiate([]string{"gzip", "zstd"}); got != zstdCode {
		t.Errorf("two lines: %q", got)
	}
}
