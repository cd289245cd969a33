// Package chaos holds nothing but tests: they run the real programs (canopy's services, client processes and
// a Postgres with fsync on), kill them at named points and at random, spoil the network between them,
// fill disks and jump clocks, and check that nothing that was promised is lost. See README.md.
package chaos
