package chaos_test

import "syscall"

// dieWithThread has a program killed when the thread that started it dies, with this process for instance,
// which a test that takes too long ends without cleaning up.
func dieWithThread(attr *syscall.SysProcAttr) { attr.Pdeathsig = syscall.SIGKILL }
