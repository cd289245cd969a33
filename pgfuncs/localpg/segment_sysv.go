//go:build linux || (darwin && !ios)

package localpg

import "golang.org/x/sys/unix"

// freeSegment frees a segment of System V shared memory, and reports false if a process is attached to it. A segment that
// cannot be inspected, or is another user's, has been freed and its id reused.
func freeSegment(id, uid int) bool {
	var desc unix.SysvShmDesc
	if _, err := unix.SysvShmCtl(id, unix.IPC_STAT, &desc); err != nil || int(desc.Perm.Uid) != uid {
		return true
	}
	if desc.Nattch != 0 {
		return false
	}
	_, err := unix.SysvShmCtl(id, unix.IPC_RMID, nil)
	return err == nil
}
