package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"syscall"
)

// listenLoopback listens on an address that only this machine can reach, and refuses any other. It resolves the name
// once, so that it listens on the very address that it checked.
func listenLoopback(ctx context.Context, flag, addr string) (net.Listener, error) {
	host, port, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, usagef("%s %q: %v", flag, addr, err)
	}
	ip, err := loopback(ctx, host)
	if err != nil {
		return nil, usagef("%s %q: %v", flag, addr, err)
	}
	return listen(ctx, flag, net.JoinHostPort(ip.String(), port))
}

// errNotLoopback explains itself.
var errNotLoopback = errors.New("not a loopback address: without authentication, anybody who reaches it could read and change every room; use 127.0.0.1, ::1 or localhost")

// loopback resolves a host whose addresses are all loopback addresses.
func loopback(ctx context.Context, host string) (netip.Addr, error) {
	if host == "" {
		return netip.Addr{}, errNotLoopback // all interfaces
	}
	ips, err := net.DefaultResolver.LookupNetIP(ctx, "ip", host)
	if err != nil {
		return netip.Addr{}, err
	}
	for _, ip := range ips {
		if !ip.Unmap().IsLoopback() {
			return netip.Addr{}, errNotLoopback
		}
	}
	return ips[0].Unmap(), nil
}

// listen opens addr and says in plain words why it cannot.
func listen(ctx context.Context, flag, addr string) (net.Listener, error) {
	if err := checkPort(addr); err != nil {
		return nil, usagef("%s %q: %v", flag, addr, err)
	}
	ln, err := new(net.ListenConfig).Listen(ctx, "tcp", addr)
	switch {
	case errors.Is(err, syscall.EADDRINUSE):
		return nil, fmt.Errorf("%s is in use by another program; stop it, or choose another address with %s", addr, flag)
	case err != nil:
		return nil, fmt.Errorf("%s: %w", flag, err)
	}
	return ln, nil
}

func checkPort(addr string) error {
	_, port, err := net.SplitHostPort(addr)
	if err != nil {
		return err
	}
	if _, err := strconv.ParseUint(port, 10, 16); err != nil {
		return fmt.Errorf("%q is not a port number", port)
	}
	return nil
}

func httpURL(ln net.Listener) string { return "http://" + ln.Addr().String() }
