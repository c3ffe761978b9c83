/*
 * A stand-in for libcuda.so.1: what runnerctl's active probe calls, with sizes and faults from a scenario file
 * (see README.md). Device memory is memory of the process; the two kernels are run here, in C. Built by
 * tests/fakes/cuda/__init__.py.
 */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))
#define MAX_LINES 256
#define MAX_GPUS 16

enum { SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, NO_DEVICE = 100, NOT_FOUND = 500 };

struct fault { char name[64]; int gpu; char action[8]; long number; long after; long calls; };
struct block { unsigned char *place; size_t size; };

static struct fault faults[MAX_LINES];
static struct block blocks[MAX_LINES];
static char uuids[MAX_GPUS][64];
static int fault_count, block_count, loaded, initialised, gpu = -1;
static uint64_t total = 32 << 20, used;
static long flip_word = -1, flip_copy = -1;

static void bad_line(int number, const char *line)
{
    fprintf(stderr, "cuda scenario, line %d cannot be understood: %s\n", number, line);
    abort();
}

static void load_fault(const char *text, int number)
{
    struct fault *fault = &faults[fault_count++];
    char rest[8] = "", *at;
    long first = 0, second = 0;
    if (fault_count > MAX_LINES || sscanf(text, "%63s %7s %ld %7s %ld", fault->name, fault->action, &first, rest, &second) < 2)
        bad_line(number, text);
    fault->gpu = -1;
    if ((at = strchr(fault->name, '@'))) {
        fault->gpu = atoi(at + 1);
        *at = 0;
    }
    fault->number = first;
    if (!strcmp(fault->action, "after")) {
        snprintf(fault->action, sizeof fault->action, "%s", rest);
        fault->after = first;
        fault->number = second;
    }
    if (strcmp(fault->action, "return") && strcmp(fault->action, "hang") && strcmp(fault->action, "sleep") && strcmp(fault->action, "abort"))
        bad_line(number, text);
}

static void load(void)
{
    const char *path = getenv("CUDA_SCENARIO");
    char line[256], key[64], value[192];
    int count = 1, index;
    if (loaded++)
        return;
    for (index = 0; index < MAX_GPUS; index++)
        snprintf(uuids[index], sizeof uuids[0], "GPU-00000000-0000-4000-8000-%012x", index); /* as in tests/fakes/nvml */
    FILE *file = fopen(path && *path ? path : "/etc/cuda-scenario", "r");
    for (int number = 1; file && fgets(line, sizeof line, file); number++) {
        line[strcspn(line, "#\n")] = 0;
        if (sscanf(line, "%63s %191[^\n]", key, value) < 2) {
            if (sscanf(line, "%63s", key) == 1)
                bad_line(number, line);
            continue;
        }
        if (!strcmp(key, "fault")) load_fault(value, number);
        else if (!strcmp(key, "count")) count = atoi(value);
        else if (!strcmp(key, "total")) total = strtoull(value, NULL, 10);
        else if (!strcmp(key, "used")) used = strtoull(value, NULL, 10);
        else if (!strcmp(key, "flip_word")) flip_word = atol(value);
        else if (!strcmp(key, "flip_copy")) flip_copy = atol(value);
        else if (sscanf(key, "gpu.%d.uuid", &index) == 1 && index >= 0 && index < MAX_GPUS)
            snprintf(uuids[index], sizeof uuids[0], "%.63s", value);
        else bad_line(number, line);
    }
    if (file)
        fclose(file);
    const char *visible = getenv("CUDA_VISIBLE_DEVICES");
    for (index = count - 1; index >= 0; index--)
        if (!visible || !strcasecmp(visible, uuids[index]))
            gpu = index;
}

/* What the scenario has in store for this call; 0: nothing. */
static int struck(const char *name)
{
    load();
    for (int i = 0; i < fault_count; i++) {
        struct fault *fault = &faults[i];
        if ((strcmp(fault->name, name) && strcmp(fault->name, "*")) || (fault->gpu >= 0 && fault->gpu != gpu))
            continue;
        if (fault->calls++ < fault->after)
            continue;
        if (!strcmp(fault->action, "hang"))
            for (;;) pause();
        if (!strcmp(fault->action, "abort"))
            abort();
        if (!strcmp(fault->action, "sleep"))
            usleep(1000 * fault->number);
        else
            return (int)fault->number;
    }
    return strcmp(name, "cuInit") && !initialised ? NOT_INITIALIZED : SUCCESS;
}

#define STRIKE do { int code = struck(__func__); if (code) return code; } while (0)

API int cuInit(unsigned flags)
{
    (void)flags;
    STRIKE;
    initialised = 1;
    return gpu < 0 ? NO_DEVICE : SUCCESS;
}

API int cuDeviceGet(int *device, int ordinal)
{
    STRIKE;
    if (ordinal)
        return 101;
    *device = 0;
    return SUCCESS;
}

API int cuDeviceGetUuid(unsigned char *bytes, int device)
{
    STRIKE;
    (void)device;
    const char *text = strchr(uuids[gpu], '-') + 1;
    for (int i = 0; i < 16; i++) {
        unsigned byte = 0;
        while (*text == '-') text++;
        sscanf(text, "%2x", &byte);
        text += 2;
        bytes[i] = (unsigned char)byte;
    }
    return SUCCESS;
}

API int cuCtxCreate_v2(void **context, unsigned flags, int device)
{
    STRIKE;
    (void)flags; (void)device;
    *context = &loaded;
    return SUCCESS;
}

API int cuCtxDestroy_v2(void *context) { STRIKE; return context == &loaded ? SUCCESS : 201; }
API int cuCtxSynchronize(void) { STRIKE; return SUCCESS; }

API int cuGetErrorName(int code, const char **name)
{
    *name = code == 226 ? "CUDA_ERROR_CONTAINED" : "CUDA_ERROR_OF_THE_STAND_IN";
    return SUCCESS;
}

API int cuMemGetInfo_v2(size_t *free_bytes, size_t *all)
{
    STRIKE;
    *free_bytes = total - used;
    *all = total;
    return SUCCESS;
}

API int cuMemAlloc_v2(uint64_t *place, size_t size)
{
    STRIKE;
    if (used + size > total || block_count == MAX_LINES)
        return OUT_OF_MEMORY;
    unsigned char *found = malloc(size);
    if (!found)
        return OUT_OF_MEMORY;
    used += size;
    blocks[block_count++] = (struct block){found, size};
    *place = (uint64_t)(uintptr_t)found;
    return SUCCESS;
}

API int cuMemFree_v2(uint64_t place)
{
    STRIKE;
    for (int i = 0; i < block_count; i++)
        if ((uint64_t)(uintptr_t)blocks[i].place == place) {
            free(blocks[i].place);
            used -= blocks[i].size;
            blocks[i] = blocks[--block_count];
            return SUCCESS;
        }
    return INVALID_VALUE;
}

/* Device addresses outside every block are a mistake of the caller. */
static unsigned char *inside(uint64_t place, size_t size)
{
    unsigned char *start = (unsigned char *)(uintptr_t)place;
    for (int i = 0; i < block_count; i++)
        if (start >= blocks[i].place && start + size <= blocks[i].place + blocks[i].size)
            return start;
    return NULL;
}

API int cuMemHostAlloc(void **place, size_t size, unsigned flags)
{
    STRIKE;
    (void)flags;
    *place = malloc(size);
    return *place ? SUCCESS : OUT_OF_MEMORY;
}

API int cuMemFreeHost(void *place) { STRIKE; free(place); return SUCCESS; }

API int cuMemsetD8_v2(uint64_t place, unsigned char value, size_t count)
{
    STRIKE;
    if (!inside(place, count))
        return INVALID_VALUE;
    memset(inside(place, count), value, count);
    return SUCCESS;
}

API int cuMemsetD32_v2(uint64_t place, unsigned value, size_t count)
{
    STRIKE;
    uint32_t *words = (uint32_t *)inside(place, 4 * count);
    if (!words)
        return INVALID_VALUE;
    for (size_t i = 0; i < count; i++)
        words[i] = value;
    if (flip_word >= 0 && (size_t)flip_word < count)
        words[flip_word] ^= 1;
    return SUCCESS;
}

API int cuMemcpyHtoD_v2(uint64_t place, const void *source, size_t size)
{
    STRIKE;
    if (!inside(place, size))
        return INVALID_VALUE;
    memcpy(inside(place, size), source, size);
    return SUCCESS;
}

API int cuMemcpyDtoH_v2(void *target, uint64_t place, size_t size)
{
    STRIKE;
    if (!inside(place, size))
        return INVALID_VALUE;
    memcpy(target, inside(place, size), size);
    if (flip_copy >= 0 && (size_t)flip_copy < size)
        ((unsigned char *)target)[flip_copy] ^= 0x10;
    return SUCCESS;
}

API int cuMemcpyDtoD_v2(uint64_t target, uint64_t source, size_t size)
{
    STRIKE;
    if (!inside(target, size) || !inside(source, size))
        return INVALID_VALUE;
    memmove(inside(target, size), inside(source, size), size);
    return SUCCESS;
}

API int cuModuleLoadData(void **module, const char *text)
{
    STRIKE;
    *module = &loaded;
    return strstr(text, ".entry fill") && strstr(text, ".entry verify") ? SUCCESS : 218;
}

API int cuModuleGetFunction(void **function, void *module, const char *name)
{
    STRIKE;
    if (module != &loaded)
        return INVALID_VALUE;
    *function = !strcmp(name, "fill") ? (void *)&fault_count : !strcmp(name, "verify") ? (void *)&block_count : NULL;
    return *function ? SUCCESS : NOT_FOUND;
}

static uint32_t word_of(uint64_t index, uint32_t seed, uint32_t mask, uint32_t flip)
{
    uint32_t word = (uint32_t)index * 2654435761u + seed;
    word ^= (uint32_t)(index >> 32);
    word ^= word >> 15;
    return ((word * 2246822519u) & mask) ^ flip;
}

API int cuLaunchKernel(void *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz,
                       unsigned shared, void *stream, void **arguments, void **extra)
{
    STRIKE;
    (void)shared; (void)stream; (void)extra;
    if (!gx || gy != 1 || gz != 1 || !bx || bx > 1024 || by != 1 || bz != 1)
        return INVALID_VALUE;
    uint64_t place = *(uint64_t *)arguments[0], count = *(uint64_t *)arguments[1];
    uint32_t seed = *(uint32_t *)arguments[2], mask = *(uint32_t *)arguments[3], flip = *(uint32_t *)arguments[4];
    uint32_t *words = (uint32_t *)inside(place, 4 * count);
    if (!words)
        return 700;
    if (function == (void *)&fault_count) {
        for (uint64_t i = 0; i < count; i++)
            words[i] = word_of(i, seed, mask, flip);
        if (flip_word >= 0 && (uint64_t)flip_word < count)
            words[flip_word] ^= 1;
        return SUCCESS;
    }
    uint64_t *found = (uint64_t *)inside(*(uint64_t *)arguments[5], 16);
    if (!found)
        return 700;
    for (uint64_t i = 0; i < count; i++)
        if (words[i] != word_of(i, seed, mask, flip)) {
            found[0]++;
            if (i < found[1])
                found[1] = i;
        }
    return SUCCESS;
}
