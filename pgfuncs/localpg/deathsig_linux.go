package localpg

import "syscall"

// dieWithThread makes the kernel request a fast shutdown when the thread that starts the process ends.
func dieWithThread(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGINT }
