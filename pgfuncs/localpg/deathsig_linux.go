package localpg

import "syscall"

// dieWithThread has the kernel ask for a fast shutdown when the thread that starts the process ends.
func dieWithThread(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGINT }
