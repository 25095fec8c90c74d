/*
 * DPDK's rte_ring as the benchmark uses it. The functions of rte_ring are inline, so what calls them is compiled where the
 * benchmark runs, if DPDK is installed; the loop over the records is here, so that no call is added to each.
 */

#include <rte_ring_elem.h>
#include <stdint.h>
#include <stdlib.h>

#define RECORDS 64
#define TURN 128

/* What a producer works with. */
struct producer {
	struct rte_ring *ring;
	const uint64_t *records;
};

/* A ring for records of that many bytes, which holds exactly so many; NULL if there is no memory. */
struct rte_ring *peer_new(unsigned int places, unsigned int bytes, int one_producer)
{
	unsigned int flags = RING_F_EXACT_SZ | RING_F_SC_DEQ | (one_producer ? RING_F_SP_ENQ : 0);
	ssize_t size = rte_ring_get_memsize_elem(bytes, rte_align32pow2(places + 1));
	struct rte_ring *ring = size < 0 ? NULL : aligned_alloc(RTE_CACHE_LINE_SIZE, (size_t)size);

	if (ring != NULL && rte_ring_init(ring, "weir", places, flags) != 0) {
		free(ring);
		return NULL;
	}
	return ring;
}

/* Pushes so many records one by one, from the one with that number on; how many were accepted. */
#define PUSH(name, enqueue, bytes) \
	uint64_t name(struct producer *producer, uint64_t number, uint64_t count) \
	{ \
		uint64_t accepted = 0; \
		for (uint64_t end = number + count; number < end; number++) { \
			/* As black_box: nothing is in registers from one push to the next. */ \
			__asm__ volatile("" : "+r"(producer) : : "memory"); \
			const uint64_t *record = producer->records + number % RECORDS * ((bytes) / 8); \
			accepted += enqueue(producer->ring, (void *)(uintptr_t)record, bytes) == 0; \
		} \
		return accepted; \
	}

PUSH(peer_push_mp_64, rte_ring_mp_enqueue_elem, 64)
PUSH(peer_push_mp_128, rte_ring_mp_enqueue_elem, 128)
PUSH(peer_push_sp_64, rte_ring_sp_enqueue_elem, 64)

/* Takes up to a turn of records; their words' sum is added to `sum`. */
#define DRAIN(name, bytes) \
	uint64_t name(struct rte_ring *ring, uint64_t *sum) \
	{ \
		uint64_t records[TURN][(bytes) / 8]; \
		unsigned int count = rte_ring_sc_dequeue_burst_elem(ring, records, bytes, TURN, NULL); \
		for (unsigned int record = 0; record < count; record++) \
			for (unsigned int word = 0; word < (bytes) / 8; word++) \
				*sum += records[record][word]; \
		return count; \
	}

DRAIN(peer_drain_64, 64)
DRAIN(peer_drain_128, 128)
