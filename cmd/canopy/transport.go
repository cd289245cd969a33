package main

import (
	"log/slog"

	"github.com/canopysync/canopy/pgfuncs"
	"github.com/canopysync/canopy/realtime"
	"github.com/canopysync/canopy/realtime/nats"
)

// transportFlags say how realtime processes on one database tell each other things.
type transportFlags struct {
	Hints      string `default:"postgres" enum:"postgres,nats,none" envar:"CANOPY_HINTS" help:"How processes on one database tell each other of commits, of who is there and of presence: ${enum}. With none, and while they cannot hear each other, they poll every second, and each shows its own people only."`
	NATSURL    string `name:"nats-url" default:"nats://127.0.0.1:4222" envar:"CANOPY_NATS_URL" placeholder:"URL" help:"With --hints nats: NATS servers, separated by commas, nats:// or tls://, with user:password@ or token@ if need be. Others may see a command line: secrets are better in the variable."`
	NATSCreds  string `name:"nats-creds" envar:"CANOPY_NATS_CREDS" type:"path" placeholder:"FILE" help:"File with NATS credentials (JWT and seed)."`
	NATSCA     string `name:"nats-ca" envar:"CANOPY_NATS_CA" type:"path" placeholder:"FILE" help:"Certificates that the NATS server's is signed by; the system's by default."`
	NATSCert   string `name:"nats-cert" envar:"CANOPY_NATS_CERT" type:"path" placeholder:"FILE" help:"Certificate to show to the NATS server."`
	NATSKey    string `name:"nats-key" envar:"CANOPY_NATS_KEY" type:"path" placeholder:"FILE" help:"Its private key."`
	NATSPrefix string `name:"nats-prefix" default:"canopy" envar:"CANOPY_NATS_PREFIX" placeholder:"PREFIX" help:"Beginning of all NATS subjects, another one for each database. Only realtime processes may publish or subscribe under it: who else does can show sockets operations that are not in the log."`
}

// open returns what Config.Transport has to be, and what to call when the service has stopped.
func (f transportFlags) open(db *pgfuncs.DB, log *slog.Logger) (transport realtime.Transport, done func(), err error) {
	switch f.Hints {
	case "postgres":
		return db.Transport(pgfuncs.TransportConfig{Logger: log}), func() {}, nil
	case "nats":
		t, err := nats.Open(nats.Config{
			URL: f.NATSURL, Credentials: f.NATSCreds, CA: f.NATSCA, Cert: f.NATSCert, Key: f.NATSKey,
			Prefix: f.NATSPrefix, Logger: log,
		})
		if err != nil {
			return nil, nil, usagef("%v", err)
		}
		return t, t.Close, nil
	}
	return nil, func() {}, nil
}
