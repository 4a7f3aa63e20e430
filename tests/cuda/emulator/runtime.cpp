// Runs CUDA threads as fibers, one at a time, and watches what they touch. How it works: docs/emulator.md.
//
// This file is compiled without instrumentation and linked to kernels that are compiled with it.

#include <stdint.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

struct uint3 { unsigned x, y, z; };

// ---- What Python and the runtime say to each other (driver.py mirrors these) ----

enum Kind { DIVERGENCE, OUT_OF_BOUNDS, UNINITIALISED, RACE, MISALIGNED, STACK_OVERFLOW };

struct Region {             // an array that kernels may touch
    char* begin;            // for shared arrays: the offset in thread-local memory
    uint64_t size;
    uint64_t guard;         // so many bytes behind it are nobody's, and hold POISON
    uint32_t shared, unwritten;  // is it in shared memory? may it be read before it is written?
    struct Cell* cells;     // one a byte, where accesses are checked
};

struct Finding {
    uint32_t kind, region;        // region: NONE where no array is concerned
    uint64_t address, other;      // of the code, relative to the library; 0 where not known
    char detail[256];
};

struct Launch {
    void (*kernel)(void**);
    void** arguments;
    uint3 grid, block;
    uint64_t seed;
    Region* regions;
    uint32_t region_count, checked;
    Finding* findings;
    uint32_t capacity, count;
    uint32_t fatal;         // the launch was abandoned
};

constexpr uint32_t NONE = ~0u;
constexpr int POISON = 0xff;  // bytes of it make a NaN of any floating type, and -1
constexpr unsigned WARP = 32;
constexpr unsigned MAX_THREADS = 1024;
constexpr size_t STACK = 128 << 10;
#define TOO_MUCH_LOCAL "a thread needs more than %zu KB of local memory"

// ---- Fibers ----

enum State { RUNNABLE, BARRIER, SYNCWARP, SHUFFLE, BALLOT, TOGETHER, EXITED };

struct Fiber {
    void* stack_pointer;
    State state;
    int line;             // where it waits: the identity of the meeting point
    uint64_t address;     // the same, for the reader of a finding
    unsigned mask;        // whom it waits for
    int source;           // the lane whose value it wants
    uint64_t value;       // what it brings
    void (*compute)(void* const*);  // what is to be made of what all lanes bring, if they do something together
    uint64_t result;      // what it takes away
    unsigned number;      // within its block
    uint3 index;
};

// clock[l][m]: how often lane m had passed a __syncwarp when lane l last heard of it. An access of m is ordered before
// what l does now if l has heard of a later count than m had then.
struct Warp {
    Fiber* lanes;
    unsigned count;
    uint32_t clock[WARP][WARP];
};

static Launch* launch;
static Fiber fibers[MAX_THREADS];
static Warp warps[MAX_THREADS / WARP];
static unsigned thread_count, warp_count;
static Fiber* self;            // null outside of kernels
static char* stacks;
static void* scheduler;
static uint32_t block_number, epoch;  // the epoch grows with every barrier and every block

extern "C" {
uint3 threadIdx, blockIdx, blockDim, gridDim;  // constant for kernels, which see another declaration
// The linker's: where this library, and not another, lies in memory.
extern __attribute__((visibility("hidden"))) char __ehdr_start, _end;
void emulator_switch(void** save, void* load);
}

// Saves the registers that a function must preserve and the stack pointer, loads the same, and returns there.
asm(R"(
.text
.type emulator_switch, @function
emulator_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
)");

static void leave() { emulator_switch(&self->stack_pointer, scheduler); }

static void fiber_main() {
    launch->kernel(launch->arguments);
    self->state = EXITED;
    leave();
}

static char* stack_of(const Fiber& fiber) { return stacks + fiber.number * STACK; }

static void start(Fiber& fiber) {
    void** top = reinterpret_cast<void**>(stack_of(fiber) + STACK);
    *--top = nullptr;                                   // where fiber_main would return to; it aligns the stack, too
    *--top = reinterpret_cast<void*>(fiber_main);
    for (int i = 0; i < 6; i++) *--top = nullptr;       // the registers
    fiber.stack_pointer = top;
    fiber.state = RUNNABLE;
    memset(stack_of(fiber), POISON, sizeof(uint64_t));  // overwritten if the stack overflows
}

static uint64_t random_state;

static unsigned random_below(unsigned n) {  // splitmix64
    uint64_t z = random_state += 0x9e3779b97f4a7c15;
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9;
    z = (z ^ (z >> 27)) * 0x94d049bb133111eb;
    return unsigned(((z ^ (z >> 31)) >> 32) * n >> 32);
}

// ---- Findings ----

static uint64_t relative(void* address) {
    // A return address is that of the next instruction, which may belong to another line.
    return address ? uint64_t(static_cast<char*>(address) - &__ehdr_start) - 1 : 0;
}

__attribute__((format(printf, 5, 6)))
static void report(Kind kind, uint32_t region, uint64_t address, uint64_t other, const char* format, ...) {
    for (uint32_t i = 0; i < launch->count; i++) {
        const Finding& known = launch->findings[i];
        if (known.kind == kind && known.region == region && known.address == address && known.other == other) return;
    }
    if (launch->count == launch->capacity) return;
    Finding& finding = launch->findings[launch->count++];
    finding = {kind, region, address, other, ""};
    va_list values;
    va_start(values, format);
    vsnprintf(finding.detail, sizeof finding.detail, format, values);
    va_end(values);
}

// The kernel cannot go on from here: the next instruction would be undefined, or the threads wait forever.
static void abandon() {
    launch->fatal = 1;
    if (self) leave();
}

// ---- Meeting points ----

static uint64_t wait(State state, int line, void* address) {
    self->state = state;
    self->line = line;
    self->address = relative(address);
    leave();
    return self->result;
}

extern "C" int emulator_barrier(int predicate, int line) {
    self->value = predicate != 0;
    return int(wait(BARRIER, line, __builtin_return_address(0)));
}

extern "C" void emulator_syncwarp(unsigned mask, int line) {
    self->mask = mask;
    wait(SYNCWARP, line, __builtin_return_address(0));
}

extern "C" uint64_t emulator_shuffle(unsigned mask, uint64_t value, int source, int line) {
    self->mask = mask;
    self->value = value;
    self->source = source;
    return wait(SHUFFLE, line, __builtin_return_address(0));
}

extern "C" unsigned emulator_ballot(unsigned mask, int predicate, int line) {
    self->mask = mask;
    self->value = predicate != 0;
    return unsigned(wait(BALLOT, line, __builtin_return_address(0)));
}

// All 32 lanes bring what the tensor cores are to work on; when they have met, `compute` is called once for the warp.
extern "C" void emulator_together(void (*compute)(void* const*), void* brought, int line) {
    self->mask = ~0u;
    self->value = reinterpret_cast<uint64_t>(brought);
    self->compute = compute;
    wait(TOGETHER, line, __builtin_return_address(0));
}

extern "C" int emulator_lane() { return int(self->number % WARP); }

static void order(Warp& warp, unsigned mask) {
    uint32_t latest[WARP] = {};
    for (unsigned l = 0; l < warp.count; l++)
        for (unsigned m = 0; mask >> l & 1 && m < WARP; m++)
            if (warp.clock[l][m] > latest[m]) latest[m] = warp.clock[l][m];
    for (unsigned l = 0; l < warp.count; l++)
        if (mask >> l & 1) {
            memcpy(warp.clock[l], latest, sizeof latest);
            warp.clock[l][l]++;
        }
}

// Lets those lanes go on that all those have met whom they wait for. Only __syncwarp orders memory accesses: the
// others wait for lanes, but not for what these have written.
static bool meet(Warp& warp) {
    bool progress = false;
    for (unsigned l = 0; l < warp.count; l++) {
        const Fiber first = warp.lanes[l];
        if (first.state == RUNNABLE || first.state == BARRIER || first.state == EXITED) continue;
        unsigned mask = first.mask, votes = 0;
        if (warp.count < WARP) mask &= (1u << warp.count) - 1;  // a warp's lanes that never were may be named
        bool complete = mask >> l & 1 && (first.state != TOGETHER || warp.count == WARP);
        for (unsigned m = 0; m < warp.count; m++)
            if (mask >> m & 1) {
                const Fiber& other = warp.lanes[m];
                complete &= other.state == first.state && other.line == first.line && other.mask == first.mask;
                complete &= first.state != TOGETHER || other.compute == first.compute;
                votes |= unsigned(other.value & 1) << m;
            }
        if (!complete) continue;
        progress = true;
        if (first.state == SYNCWARP) order(warp, mask);
        if (first.state == TOGETHER) {
            void* brought[WARP];
            for (unsigned m = 0; m < WARP; m++) brought[m] = reinterpret_cast<void*>(warp.lanes[m].value);
            first.compute(brought);
        }
        for (unsigned m = 0; m < warp.count; m++)
            if (mask >> m & 1) {
                Fiber& fiber = warp.lanes[m];
                fiber.state = RUNNABLE;
                if (first.state == BALLOT) fiber.result = votes;
                if (first.state != SHUFFLE) continue;
                if (unsigned(fiber.source) < WARP && mask >> fiber.source & 1) {
                    fiber.result = warp.lanes[fiber.source].value;
                } else {
                    memset(&fiber.result, POISON, sizeof fiber.result);
                    report(DIVERGENCE, NONE, fiber.address, 0, "lane %u takes the value of lane %d, which is absent", m,
                           fiber.source);
                }
            }
    }
    return progress;
}

// Strict: a thread that has returned is missing at a barrier, though recent GPUs would go on without it.
static bool pass_barrier() {
    int count = 0;
    for (unsigned t = 0; t < thread_count; t++) {
        if (fibers[t].state != BARRIER || fibers[t].line != fibers[0].line) return false;
        count += int(fibers[t].value);
    }
    for (unsigned t = 0; t < thread_count; t++) {
        fibers[t].state = RUNNABLE;
        fibers[t].result = uint64_t(count);
    }
    epoch++;
    return true;
}

static void report_divergence() {
    static const char* const names[] = {"", "__syncthreads", "__syncwarp", "a shuffle", "a vote",
                                        "an instruction of the tensor cores", ""};
    const Fiber* shown = nullptr;  // what waits within a warp tells more than what waits for all
    unsigned at_barrier = 0, in_warp = 0, exited = 0, others = 0;
    for (unsigned t = 0; t < thread_count; t++) {
        const Fiber& fiber = fibers[t];
        exited += fiber.state == EXITED;
        at_barrier += fiber.state == BARRIER;
        in_warp += fiber.state != EXITED && fiber.state != BARRIER;
        if (fiber.state != EXITED && (!shown || (shown->state == BARRIER && fiber.state != BARRIER))) shown = &fiber;
    }
    for (unsigned t = 0; t < thread_count; t++) others += fibers[t].state != EXITED && fibers[t].line != shown->line;
    report(DIVERGENCE, NONE, shown->address, 0,
           "block %u is stuck at %s (lane %u, mask %08x): %u threads wait for the block, %u for their warps "
           "(%u of all at another line), %u have returned",
           block_number, names[shown->state], shown->number % WARP, shown->state == BARRIER ? ~0u : shown->mask,
           at_barrier, in_warp, others, exited);
    abandon();
}

// ---- The scheduler ----

static void run(Fiber& fiber) {
    self = &fiber;
    threadIdx = fiber.index;
    emulator_switch(&scheduler, fiber.stack_pointer);
    self = nullptr;
}

static unsigned runnable(const Warp& warp) {
    unsigned count = 0;
    for (unsigned l = 0; l < warp.count; l++) count += warp.lanes[l].state == RUNNABLE;
    return count;
}

// One slice of a warp: each of its lanes, in random order, up to where it has to wait.
static void run(Warp& warp) {
    unsigned lanes[WARP], count = 0;
    for (unsigned l = 0; l < warp.count; l++)
        if (warp.lanes[l].state == RUNNABLE) lanes[count++] = l;
    while (count && !launch->fatal) {
        unsigned i = random_below(count);
        run(warp.lanes[lanes[i]]);
        lanes[i] = lanes[--count];
    }
    if (!launch->fatal) meet(warp);
}

static void run_block() {
    for (unsigned t = 0; t < thread_count; t++) start(fibers[t]);
    while (!launch->fatal) {
        Warp* ready[MAX_THREADS / WARP];
        unsigned count = 0, exited = 0;
        for (unsigned w = 0; w < warp_count; w++)
            if (runnable(warps[w])) ready[count++] = &warps[w];
        if (count) {
            run(*ready[random_below(count)]);
        } else if (!pass_barrier()) {
            for (unsigned t = 0; t < thread_count; t++) exited += fibers[t].state == EXITED;
            if (exited == thread_count) break;
            report_divergence();
        }
    }
    for (unsigned t = 0; t < thread_count; t++) {
        const char* bottom = stack_of(fibers[t]);
        for (size_t i = 0; i < sizeof(uint64_t); i++)
            if (bottom[i] != char(POISON)) {
                report(STACK_OVERFLOW, NONE, 0, 0, TOO_MUCH_LOCAL, STACK >> 10);
                launch->fatal = 1;
            }
    }
}

// ---- Shadow memory ----

struct Access {
    uint32_t warp;   // over all blocks, from 1; 0: there was no such access
    uint32_t epoch;
    uint32_t address;
    uint32_t clock : 25, lane : 5, atomic : 1, write : 1;
};

// What is remembered of a byte: the last write, and three readers: the last, the one before it of another lane of the
// same warp, and the last of another warp. Whoever writes without having waited for all readers is not ordered after
// one of these three. Atomic operations are kept as both, since two of them by different threads are no race.
struct Cell { Access write, reader, same_warp, other_warp; };

static bool ordered(const Access& past, const Access& now) {
    unsigned before = (past.warp - 1) / warp_count, block = (now.warp - 1) / warp_count;
    if (before != block) return false;  // nothing orders blocks
    if (past.epoch < now.epoch) return true;
    if (past.warp != now.warp) return false;
    return past.lane == now.lane || warps[(now.warp - 1) % warp_count].clock[now.lane][past.lane] >= past.clock;
}

static unsigned thread_of(const Access& access) { return (access.warp - 1) % warp_count * WARP + access.lane; }

static void check(uint32_t number, uint64_t offset, const Access& past, const Access& now) {
    if (!past.warp || !(past.write || now.write) || (past.atomic && now.atomic) || ordered(past, now)) return;
    auto what = [](const Access& access) { return access.atomic ? "atomic update" : access.write ? "write" : "read"; };
    unsigned before = (past.warp - 1) / warp_count, block = (now.warp - 1) / warp_count;
    report(RACE, number, now.address, past.address,
           "byte %llu: %s by thread %u of block %u, not ordered after the %s by thread %u of %s %u",
           static_cast<unsigned long long>(offset), what(now), thread_of(now), block, what(past), thread_of(past),
           before == block ? "the same block" : "another block,", before);
}

static void remember(Cell& cell, const Access& now) {
    if (now.write) cell.write = now;
    if (now.write && !now.atomic) return;
    Access& last = cell.reader;
    if (last.warp != now.warp) {
        cell.other_warp = last;
        cell.same_warp = {};  // whoever came before the reader of the other warp is ordered if that one is
    } else if (last.lane != now.lane) {
        cell.same_warp = last;
    }
    last = now;
}

static Region* region_of(const char* address) {
    static Region* last;  // most often it is the same again
    if (last >= launch->regions && last < launch->regions + launch->region_count && address >= last->begin &&
        address < last->begin + last->size)
        return last;
    for (uint32_t i = 0; i < launch->region_count; i++) {
        Region& region = launch->regions[i];
        if (address >= region.begin && address < region.begin + region.size) return last = &region;
    }
    return nullptr;
}

static void out_of_bounds(const char* address, size_t size, bool write, uint64_t code) {
    uint32_t nearest = NONE;
    uint64_t best = 1 << 20;  // what is farther away has nothing to do with the array
    for (uint32_t i = 0; i < launch->region_count; i++) {
        const Region& region = launch->regions[i];
        if (!region.size) continue;
        const char* end = region.begin + region.size;
        uint64_t away = uint64_t(address < region.begin ? region.begin - address : address + size - end);
        if (away < best) best = away, nearest = i;
    }
    long long offset = nearest == NONE ? 0 : address - launch->regions[nearest].begin;
    report(OUT_OF_BOUNDS, nearest, code, 0, "%s of %zu bytes at byte %lld of %llu by thread %u of block %u",
           write ? "write" : "read", size, offset,
           nearest == NONE ? 0ull : static_cast<unsigned long long>(launch->regions[nearest].size), self->number,
           block_number);
    abandon();
}

static void access(void* pointer, size_t size, bool write, bool atomic, void* caller) {
    if (!self || !launch->checked) return;
    const char* address = static_cast<char*>(pointer);
    uint64_t code = relative(caller);
    if (address >= stacks - STACK && address < stacks + MAX_THREADS * STACK) {
        const char* bottom = stack_of(*self);
        if (address >= bottom && address < bottom + STACK) return;  // the thread's own
        if (static_cast<char*>(__builtin_frame_address(0)) < bottom)
            report(STACK_OVERFLOW, NONE, code, 0, TOO_MUCH_LOCAL, STACK >> 10);
        else
            report(OUT_OF_BOUNDS, NONE, code, 0, "%s of %zu bytes of another's local memory by thread %u of block %u",
                   write ? "write" : "read", size, self->number, block_number);
        return abandon();
    }
    Region* region = region_of(address);
    if (!region && address >= &__ehdr_start && address < &_end) return;       // __device__ and __constant__ variables
    if (!region || address + size > region->begin + region->size) return out_of_bounds(address, size, write, code);

    Warp& warp = warps[self->number / WARP];
    unsigned lane = self->number % WARP;
    const Access now = {block_number * warp_count + self->number / WARP + 1, epoch, uint32_t(code),
                        warp.clock[lane][lane] & 0x1ffffff, lane, atomic, write};
    uint32_t number = uint32_t(region - launch->regions);
    uint64_t offset = uint64_t(address - region->begin);
    for (uint64_t i = offset; i < offset + size; i++) {
        Cell& cell = region->cells[i];
        // The shared memory of another block has nothing to do with this one's.
        uint32_t last = cell.write.warp ? cell.write.warp : cell.reader.warp;
        if (region->shared && last && (last - 1) / warp_count != block_number) cell = {};
        if ((!write || atomic) && region->unwritten && !cell.write.warp)
            report(UNINITIALISED, number, code, 0, "byte %llu is read by thread %u of block %u before any write",
                   static_cast<unsigned long long>(i), self->number, block_number);
        const Access* const pasts[] = {&cell.write, &cell.reader, &cell.same_warp, &cell.other_warp};
        for (const Access* past : pasts) check(number, i, *past, now);
        remember(cell, now);
    }
}

extern "C" void emulator_atomic(const void* address, unsigned size, void* caller) {
    if (reinterpret_cast<uintptr_t>(address) % size) {
        Region* region = region_of(static_cast<const char*>(address));
        report(MISALIGNED, region ? uint32_t(region - launch->regions) : NONE, relative(caller), 0,
               "atomic update of %u bytes by thread %u of block %u", size, self->number, block_number);
        abandon();
    }
    access(const_cast<void*>(address), size, true, true, caller);
}

// ldmatrix takes rows of 16 bytes, and from shared memory only.
extern "C" void emulator_matrix_row(const void* pointer) {
    const char* row = static_cast<const char*>(pointer);
    uint64_t code = relative(__builtin_return_address(0));
    Region* region = region_of(row);
    if (!region) return out_of_bounds(row, 16, false, code);
    uint32_t number = uint32_t(region - launch->regions);
    if (reinterpret_cast<uintptr_t>(row) % 16)
        report(MISALIGNED, number, code, 0, "row of a matrix, by thread %u of block %u", self->number, block_number);
    else if (!region->shared)
        report(OUT_OF_BOUNDS, number, code, 0, "row of a matrix that is not in shared memory, by thread %u of block %u",
               self->number, block_number);
    else
        return;
    abandon();
}

// What g++ -fsanitize=thread calls before every access. None of ThreadSanitizer itself is linked.

#define CALLER __builtin_return_address(0)
#define HOOKS(size)                                                                                              \
    extern "C" void __tsan_read##size(void* address) { access(address, size, false, false, CALLER); }            \
    extern "C" void __tsan_write##size(void* address) { access(address, size, true, false, CALLER); }            \
    extern "C" void __tsan_unaligned_read##size(void* address) { access(address, size, false, false, CALLER); }  \
    extern "C" void __tsan_unaligned_write##size(void* address) { access(address, size, true, false, CALLER); }
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)

extern "C" void __tsan_read_range(void* address, size_t size) { access(address, size, false, false, CALLER); }
extern "C" void __tsan_write_range(void* address, size_t size) { access(address, size, true, false, CALLER); }
extern "C" void __tsan_init() {}  // called when the library is loaded

// What -fsanitize=alignment calls instead of an access to an address that its type does not allow.
struct TypeMismatch {
    const char* file;
    uint32_t line, column;
    const void* type;
    unsigned char log_alignment, kind;
};

extern "C" void __ubsan_handle_type_mismatch_v1(TypeMismatch* data, void* pointer) {
    if (!self) return;
    Region* region = region_of(static_cast<char*>(pointer));
    report(MISALIGNED, region ? uint32_t(region - launch->regions) : NONE, relative(CALLER), 0,
           "byte %lld is not a multiple of %u, by thread %u of block %u",
           region ? static_cast<long long>(static_cast<char*>(pointer) - region->begin) : 0ll,
           1u << data->log_alignment, self->number, block_number);
    abandon();
}

// ---- A launch ----

// Thread-local memory begins here less an offset that the symbol table tells.
extern "C" {
thread_local char emulator_anchor[16] = {1};
}

static void poison_shared() {
    for (uint32_t i = 0; i < launch->region_count; i++) {
        const Region& region = launch->regions[i];
        if (region.shared) memset(region.begin, POISON, region.size + region.guard);
    }
}

// Without instrumentation a write out of bounds is seen afterwards, if it was not too far out.
static void check_guards() {
    for (uint32_t i = 0; i < launch->region_count; i++) {
        const Region& region = launch->regions[i];
        for (uint64_t offset = region.size; offset < region.size + region.guard; offset++)
            if (region.begin[offset] != char(POISON)) {
                report(OUT_OF_BOUNDS, i, 0, 0, "byte %llu of %llu was written by block %u",
                       static_cast<unsigned long long>(offset), static_cast<unsigned long long>(region.size),
                       block_number);
                launch->fatal = 1;
                break;
            }
    }
}

static void number_threads() {
    thread_count = blockDim.x * blockDim.y * blockDim.z;
    warp_count = (thread_count + WARP - 1) / WARP;
    for (unsigned t = 0; t < thread_count; t++) {
        fibers[t].number = t;
        fibers[t].index = {t % blockDim.x, t / blockDim.x % blockDim.y, t / blockDim.x / blockDim.y};
    }
    for (unsigned w = 0; w < warp_count; w++) {
        warps[w].lanes = fibers + w * WARP;
        warps[w].count = thread_count - w * WARP < WARP ? thread_count - w * WARP : WARP;
        for (unsigned l = 0; l < WARP; l++)
            for (unsigned m = 0; m < WARP; m++) warps[w].clock[l][m] = l == m;
    }
}

extern "C" __attribute__((visibility("default"))) int emulator_launch(Launch* now, uint64_t anchor_offset) {
    if (!stacks) {
        // One more than there are threads: stacks grow downwards, and the first may overflow, too.
        void* memory = mmap(nullptr, (MAX_THREADS + 1) * STACK, PROT_READ | PROT_WRITE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) return 1;
        stacks = static_cast<char*>(memory) + STACK;
    }
    launch = now;
    random_state = launch->seed;
    gridDim = launch->grid;
    blockDim = launch->block;
    number_threads();
    epoch = 1;
    int failed = 0;
    for (uint32_t i = 0; i < launch->region_count; i++) {
        Region& region = launch->regions[i];
        if (region.shared) region.begin += reinterpret_cast<uintptr_t>(emulator_anchor) - anchor_offset;
        region.cells = launch->checked ? static_cast<Cell*>(calloc(region.size + 1, sizeof(Cell))) : nullptr;
        failed |= launch->checked && !region.cells;
    }
    uint64_t blocks = failed ? 0 : uint64_t(gridDim.x) * gridDim.y * gridDim.z;
    for (uint64_t b = 0; b < blocks && !launch->fatal; b++, epoch++) {
        block_number = uint32_t(b);
        blockIdx = {unsigned(b % gridDim.x), unsigned(b / gridDim.x % gridDim.y), unsigned(b / gridDim.x / gridDim.y)};
        poison_shared();
        run_block();
        check_guards();
    }
    for (uint32_t i = 0; i < launch->region_count; i++) free(launch->regions[i].cells);
    launch = nullptr;
    return failed;
}
