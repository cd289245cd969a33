package client

// applicationID marks our files ("CNPY"); schemaVersion is raised with every change of the schema.
const (
	applicationID = 0x434e5059
	schemaVersion = 6
)

// The replica's tables. Ids and timestamps are 16-byte blobs, whose order is the order that matters.
//
//   - nodes: a node's row is its last effective move;
//   - vals: a property's row is its current write;
//   - ops: every other operation of the log: moves that were superseded or are not effective, sets that
//     were overwritten. The key of a move is empty, that of a set never is;
//   - named: the nodes that moves in ops name as parents, and some that withdrawn ones did;
//   - stamps: the timestamps of the operations in the log, with the node and key of each, except for those in
//     outbox, whose seq is 0. A row stays unchanged when its operation is superseded;
//   - outbox: the operations made here and not acknowledged yet, in the order in which they are pushed, each with
//     the local transaction that made it and, if the server refused it for good, the reason. They are in the first
//     three tables too;
//   - meta: one row, see type meta;
//   - own: all replica ids that this file has had, as the last 8 bytes of their timestamps;
//   - undo: the history of Undo and Redo, see type undoStep;
//   - pages: the pages of children that are here, or could be fetched, during the first load, see type childPage.
//     Empty otherwise.
//
// The first three are the sections of a snapshot; named and stamps follow from them.
const (
	createNodes = `CREATE TABLE nodes (
		node BLOB PRIMARY KEY, parent BLOB NOT NULL, order_key TEXT NOT NULL,
		ts BLOB NOT NULL, seq INTEGER NOT NULL, known INTEGER NOT NULL, cause BLOB
	) WITHOUT ROWID`

	createVals = `CREATE TABLE vals (
		node BLOB NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL,
		ts BLOB NOT NULL, seq INTEGER NOT NULL, known INTEGER NOT NULL,
		PRIMARY KEY (node, key)
	) WITHOUT ROWID`

	opsColumns = `ts BLOB NOT NULL, kind INTEGER NOT NULL, node BLOB NOT NULL,
		parent BLOB, order_key TEXT, key TEXT NOT NULL, value TEXT,
		seq INTEGER NOT NULL, known INTEGER NOT NULL, cause BLOB, effective INTEGER NOT NULL`

	createOps = `CREATE TABLE ops (` + opsColumns + `, PRIMARY KEY (node, key, ts)) WITHOUT ROWID`

	createNamed = `CREATE TABLE named (node BLOB PRIMARY KEY) WITHOUT ROWID`

	createStamps = `CREATE TABLE stamps (
		ts BLOB PRIMARY KEY, node BLOB NOT NULL, key TEXT NOT NULL
	) WITHOUT ROWID`

	createOutbox = `CREATE TABLE outbox (
		ts BLOB PRIMARY KEY, kind INTEGER NOT NULL, node BLOB NOT NULL,
		parent BLOB, order_key TEXT, key TEXT, value TEXT, known INTEGER NOT NULL,
		edit INTEGER NOT NULL, refused TEXT
	) WITHOUT ROWID`

	// addReason is what the server said about a refused operation, in words.
	addReason = `ALTER TABLE outbox ADD COLUMN reason TEXT NOT NULL DEFAULT ''`

	createOwn = `CREATE TABLE own (replica BLOB PRIMARY KEY) WITHOUT ROWID`

	createUndoGroups = `CREATE TABLE undo_groups (
		grp INTEGER PRIMARY KEY, undone INTEGER NOT NULL, ended INTEGER NOT NULL, steps INTEGER NOT NULL
	)`

	createUndo = `CREATE TABLE undo (
		grp INTEGER NOT NULL, kind INTEGER NOT NULL, node BLOB NOT NULL, key TEXT NOT NULL,
		n INTEGER NOT NULL, state INTEGER NOT NULL, created INTEGER NOT NULL,
		ts BLOB NOT NULL, other_ts BLOB, other_parent BLOB, other_text TEXT,
		PRIMARY KEY (grp, kind, node, key)
	) WITHOUT ROWID`

	createPages = `CREATE TABLE pages (
		parent BLOB NOT NULL, page INTEGER NOT NULL, cursor TEXT NOT NULL,
		order_key TEXT NOT NULL, node BLOB NOT NULL, state INTEGER NOT NULL,
		PRIMARY KEY (parent, page)
	) WITHOUT ROWID`

	createMeta = `CREATE TABLE meta (
		id INTEGER PRIMARY KEY CHECK (id = 1),
		room TEXT NOT NULL, replica INTEGER NOT NULL,
		issued BLOB NOT NULL, accepted BLOB NOT NULL, newest BLOB NOT NULL, clock_offset INTEGER NOT NULL,
		epoch TEXT NOT NULL, seq INTEGER NOT NULL, acked INTEGER NOT NULL,
		version INTEGER NOT NULL, pending INTEGER NOT NULL, refused INTEGER NOT NULL,
		digest_ops INTEGER NOT NULL, digest_log INTEGER NOT NULL, digest_state INTEGER NOT NULL
	)`

	// addUndoNext and addUndoEnded are the group that Undo takes back next, and when the last edit went
	// into it.
	addUndoNext  = `ALTER TABLE meta ADD COLUMN undo_next INTEGER NOT NULL DEFAULT 0`
	addUndoEnded = `ALTER TABLE meta ADD COLUMN undo_ended INTEGER NOT NULL DEFAULT 0`

	addHorizon     = `ALTER TABLE meta ADD COLUMN horizon BLOB NOT NULL DEFAULT x'00000000000000000000000000000000'`
	addFoldedOps   = `ALTER TABLE meta ADD COLUMN folded_ops INTEGER NOT NULL DEFAULT 0`
	addFoldedLog   = `ALTER TABLE meta ADD COLUMN folded_log INTEGER NOT NULL DEFAULT 0`
	addFoldedState = `ALTER TABLE meta ADD COLUMN folded_state INTEGER NOT NULL DEFAULT 0`
)

// upgrades are the statements that bring a file of an earlier version, the index, one version further.
var upgrades = [schemaVersion][]string{
	1: {
		addReason, createOwn, createUndoGroups, createUndo,
		// Timestamps in the outbox may be under an earlier id than the one in meta.
		`INSERT INTO own SELECT unhex(format('%016x', replica)) FROM meta UNION SELECT substr(ts, 9) FROM outbox`,
	},
	2: {
		addUndoNext, addUndoEnded,
		`UPDATE meta SET undo_next = coalesce((SELECT max(grp) FROM undo_groups WHERE undone = 0), 0),
			undo_ended = coalesce((SELECT ended FROM undo_groups ORDER BY grp DESC LIMIT 1), 0)`,
		`DROP TABLE undo_groups`,
		createNamed, fillNamed(""),
		`DROP INDEX IF EXISTS ops_parents_a`, `DROP INDEX IF EXISTS ops_parents_b`,
	},
	3: {addHorizon, addFoldedOps, addFoldedLog, addFoldedState},
	4: {createPages},
	5: {
		`ALTER TABLE ops RENAME TO ops_by_ts`, createOps,
		`INSERT INTO ops SELECT ts, kind, node, parent, order_key, coalesce(key, ''), value, seq, known, cause, effective
			FROM ops_by_ts ORDER BY node, coalesce(key, ''), ts`,
		`DROP TABLE ops_by_ts`,
		createStamps, fillStamps(""),
		`DROP INDEX IF EXISTS nodes_ts_a`, `DROP INDEX IF EXISTS nodes_ts_b`,
		`DROP INDEX IF EXISTS vals_ts_a`, `DROP INDEX IF EXISTS vals_ts_b`,
	},
}

// indexNames are the endings of the names of indexes. Two sets take turns, because the tables of a
// snapshot are renamed when they take the place of the old ones, and indexes cannot be.
var indexNames = [2]string{"_a", "_b"}

// logTable is a table that a snapshot replaces, with its indexes. They are made after the rows are in.
type logTable struct {
	name    string
	create  string
	indexes []logIndex
}

type logIndex struct{ name, on string }

var logTables = []logTable{
	{"nodes", createNodes, []logIndex{
		{"nodes_children", "(parent, order_key, node)"},
	}},
	{"vals", createVals, nil},
	{"ops", createOps, nil},
	{"named", createNamed, nil},
	{"stamps", createStamps, nil},
}

// fillNamed returns the statement that fills named from ops, under the names that they have then.
func fillNamed(prefix string) string {
	return "INSERT INTO " + prefix + "named SELECT DISTINCT parent FROM " + prefix + "ops WHERE kind = 1"
}

// fillStamps is the same for stamps, which must be empty.
func fillStamps(prefix string) string {
	return "INSERT OR REPLACE INTO " + prefix + "stamps SELECT ts, node, '' FROM " + prefix + "nodes WHERE seq <> 0" +
		" UNION ALL SELECT ts, node, key FROM " + prefix + "vals WHERE seq <> 0" +
		" UNION ALL SELECT ts, node, key FROM " + prefix + "ops WHERE seq <> 0 ORDER BY ts"
}

// createIndexes returns the statements that index the table, under the name that it has then.
func (t logTable) createIndexes(prefix, suffix string) (statements []string) {
	for _, index := range t.indexes {
		statements = append(statements, "CREATE INDEX "+index.name+suffix+" ON "+prefix+t.name+" "+index.on)
	}
	return statements
}
