package realtime

// hint notes that the log has reached head. If the room did not exist, its row must be read, because its epoch is not
// the proposed one.
func (h *hub) hint(head int64) {
	if h.sleeping.Load() {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if head <= h.committed {
		return
	}
	h.srv.metrics.hintsHeard.Inc()
	if h.exists {
		signal(h.dirty)
	} else {
		signal(h.look)
	}
}

// tell tells the other processes of a commit, together with its ops once these have been read, if they accept ops.
func (h *hub) tell(head int64) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if head > h.told {
		h.told, h.away.head = head, head
		if h.relayed >= head || !h.srv.cluster.carriesOps() {
			h.srv.cluster.add(h)
		}
	}
}

// tellOps tells what waited for the ops to be read, whether they were or not.
func (h *hub) tellOps() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.away.head > 0 {
		h.srv.cluster.add(h)
	}
}
