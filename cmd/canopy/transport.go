package main

import (
	"log/slog"

	"github.com/canopysync/canopy/pgfuncs"
	"github.com/canopysync/canopy/realtime"
	"github.com/canopysync/canopy/realtime/nats"
)

// transportFlags select how realtime processes on one database send each other messages.
type transportFlags struct {
	Hints      string `default:"postgres" enum:"postgres,nats,none" envar:"CANOPY_HINTS" help:"How processes on one database notify each other of commits, connected replicas and presence: ${enum}. With none, or while the transport is down, they poll every second, and each shows only its own connections and presence."`
	NATSURL    string `name:"nats-url" default:"nats://127.0.0.1:4222" envar:"CANOPY_NATS_URL" placeholder:"URL" help:"With --hints nats: NATS servers, separated by commas, nats:// or tls://, with user:password@ or token@ if needed. Others may see the command line: better put secrets into the variable."`
	NATSCreds  string `name:"nats-creds" envar:"CANOPY_NATS_CREDS" type:"path" placeholder:"FILE" help:"File with NATS credentials (JWT and seed)."`
	NATSCA     string `name:"nats-ca" envar:"CANOPY_NATS_CA" type:"path" placeholder:"FILE" help:"CA certificates for the NATS servers; the system's by default."`
	NATSCert   string `name:"nats-cert" envar:"CANOPY_NATS_CERT" type:"path" placeholder:"FILE" help:"Client certificate for the NATS servers."`
	NATSKey    string `name:"nats-key" envar:"CANOPY_NATS_KEY" type:"path" placeholder:"FILE" help:"Private key of the client certificate."`
	NATSPrefix string `name:"nats-prefix" default:"canopy" envar:"CANOPY_NATS_PREFIX" placeholder:"PREFIX" help:"Prefix of all NATS subjects, a different one for each database. Allow only realtime processes to publish or subscribe under it: anybody else could show sockets operations that are not in the log."`
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
