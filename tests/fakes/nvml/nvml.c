/*
 * A stand-in for libnvidia-ml.so.1: the entry points that NVIDIA's Python binding calls, with values and
 * faults from a scenario file (see README.md). Built by tests/fakes/nvml/__init__.py.
 *
 * Layouts are those of the binding's ctypes structures; no NVIDIA header is needed.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <time.h>
#include <unistd.h>

#define API __attribute__((visibility("default")))
#define MAX_GPUS 64
#define MAX_MIG 8
#define MAX_LINES 1024
#define NO_GPU (-1)

enum {
    SUCCESS = 0, UNINITIALIZED = 1, INVALID_ARGUMENT = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6,
    INSUFFICIENT_SIZE = 7, TIMEOUT = 10, UNKNOWN = 999
};

struct device { int gpu; int mig; };                 /* mig: NO_GPU for a whole GPU */
struct entry { char key[96]; char value[256]; };
struct fault { char name[80]; int gpu; char action[8]; long number; long after; long calls; };

static struct entry entries[MAX_LINES];
static struct fault faults[MAX_LINES];
static int entry_count, fault_count, loaded, initialised;
static struct device whole[MAX_GPUS], slices[MAX_GPUS][MAX_MIG];

/* ---- the scenario -------------------------------------------------------------------------------- */

static void bad_line(int number, const char *line)
{
    fprintf(stderr, "nvml scenario, line %d cannot be understood: %s\n", number, line);
    abort();
}

/* fault FN[@GPU] return N | hang | sleep MS | abort | after K return N */
static void load_fault(char *text, int number)
{
    struct fault *fault = &faults[fault_count];
    char name[80], action[8] = "", rest[8] = "";
    long first = 0, second = 0;
    if (fault_count == MAX_LINES || sscanf(text, "%79s %7s %ld %7s %ld", name, action, &first, rest, &second) < 2)
        bad_line(number, text);
    char *at = strchr(name, '@');
    fault->gpu = at ? atoi(at + 1) : NO_GPU;
    if (at)
        *at = 0;
    snprintf(fault->name, sizeof fault->name, "%s", name);
    snprintf(fault->action, sizeof fault->action, "%s", action);
    fault->number = first;
    if (!strcmp(action, "after")) {
        if (strcmp(rest, "return"))
            bad_line(number, text);
        snprintf(fault->action, sizeof fault->action, "return");
        fault->after = first;
        fault->number = second;
    } else if (strcmp(action, "return") && strcmp(action, "hang") && strcmp(action, "sleep") && strcmp(action, "abort"))
        bad_line(number, text);
    fault_count++;
}

static void load(void)
{
    const char *path = getenv("NVML_SCENARIO");
    char line[512];
    if (loaded++)
        return;
    for (int gpu = 0; gpu < MAX_GPUS; gpu++) {
        whole[gpu] = (struct device){gpu, NO_GPU};
        for (int mig = 0; mig < MAX_MIG; mig++)
            slices[gpu][mig] = (struct device){gpu, mig};
    }
    FILE *file = fopen(path && *path ? path : "/etc/nvml-scenario", "r");
    if (!file)
        return;
    for (int number = 1; fgets(line, sizeof line, file); number++) {
        char key[96], value[256] = "";
        line[strcspn(line, "#\n")] = 0;
        if (sscanf(line, "%95s %255[^\n]", key, value) < 1)
            continue;
        if (!strcmp(key, "fault"))
            load_fault(value, number);
        else if (!*value || entry_count == MAX_LINES)
            bad_line(number, line);
        else {
            for (char *end = value + strlen(value); end > value && strchr(" \t\r", end[-1]); end--)
                end[-1] = 0;
            snprintf(entries[entry_count].key, sizeof key, "%s", key);
            snprintf(entries[entry_count++].value, sizeof value, "%s", value);
        }
    }
    fclose(file);
}

static const char *find(const char *key)
{
    for (int i = entry_count - 1; i >= 0; i--)
        if (!strcmp(entries[i].key, key))
            return entries[i].value;
    return NULL;
}

/* gpu.<index>.<key>, then gpu.*.<key>; for the host as a whole just <key>. */
static const char *value_of(int gpu, const char *key)
{
    char full[128];
    if (gpu == NO_GPU)
        return find(key);
    snprintf(full, sizeof full, "gpu.%d.%s", gpu, key);
    const char *value = find(full);
    if (value)
        return value;
    snprintf(full, sizeof full, "gpu.*.%s", key);
    return find(full);
}

/* Apply the faults of a call; 0 means that it may go on. */
static int enter(const char *name, int gpu)
{
    load();
    for (int i = 0; i < fault_count; i++) {
        struct fault *fault = &faults[i];
        if (strcmp(fault->name, "*") && strcmp(fault->name, name))
            continue;
        if (fault->gpu != NO_GPU && fault->gpu != gpu)
            continue;
        if (fault->calls++ < fault->after)
            continue;
        if (!strcmp(fault->action, "return"))
            return (int)fault->number;
        if (!strcmp(fault->action, "abort"))
            abort();
        if (!strcmp(fault->action, "hang"))
            for (;;)
                pause();
        struct timespec pause_for = {fault->number / 1000, fault->number % 1000 * 1000000L};
        nanosleep(&pause_for, NULL);
    }
    if (!initialised && strncmp(name, "nvmlInit", 8) && strcmp(name, "nvmlErrorString"))
        return UNINITIALIZED;
    return SUCCESS;
}

static int gpu_count(void)
{
    const char *value = find("count");
    int count = value ? atoi(value) : 1;
    return count > MAX_GPUS ? MAX_GPUS : count;
}

/* A number: "!N" makes the call return N; without a value and a default it is not supported. */
static int number(int gpu, const char *key, const char *otherwise, long long *out)
{
    const char *value = value_of(gpu, key);
    if (!value)
        value = otherwise;
    if (!value)
        return NOT_SUPPORTED;
    if (*value == '!')
        return atoi(value + 1);
    *out = strtoll(value, NULL, 0);
    return SUCCESS;
}

static int text(int gpu, const char *key, const char *otherwise, char *out, unsigned size)
{
    const char *value = value_of(gpu, key);
    if (!value)
        value = otherwise;
    if (!value)
        return NOT_SUPPORTED;
    if (*value == '!')
        return atoi(value + 1);
    if (strlen(value) >= size)
        return INSUFFICIENT_SIZE;
    strcpy(out, value);
    return SUCCESS;
}

#define ENTER(gpu) do { int code = enter(__func__, gpu); if (code) return code; } while (0)
#define PUT(type, out, gpu, key, otherwise) do { \
        long long got; int code = number(gpu, key, otherwise, &got); \
        if (code) return code; \
        *(out) = (type)got; } while (0)

/* nvmlDeviceGetX(device, type *out) with one number. */
#define NUMBER(function, type, key, otherwise) \
    API int function(struct device *d, type *out) \
    { ENTER(d->gpu); PUT(type, out, d->gpu, key, otherwise); return SUCCESS; }
/* ... with an argument that only chooses among kinds. */
#define NUMBER_OF(function, type, key, otherwise) \
    API int function(struct device *d, unsigned kind, type *out) \
    { (void)kind; ENTER(d->gpu); PUT(type, out, d->gpu, key, otherwise); return SUCCESS; }
/* nvmlDeviceGetX(device, first *, second *). */
#define PAIR(function, type, first, a_otherwise, second, b_otherwise) \
    API int function(struct device *d, type *a, type *b) \
    { ENTER(d->gpu); PUT(type, a, d->gpu, first, a_otherwise); PUT(type, b, d->gpu, second, b_otherwise); return SUCCESS; }
#define TEXT(function, key, otherwise) \
    API int function(struct device *d, char *out, unsigned size) \
    { ENTER(d->gpu); return text(d->gpu, key, otherwise, out, size); }
/* Structures whose content no check needs yet: they can be asked for, and are not supported. */
#define ABSENT(function) \
    API int function(struct device *d, void *a, void *b, void *c, void *e) \
    { (void)a; (void)b; (void)c; (void)e; ENTER(d->gpu); return NOT_SUPPORTED; }

/* ---- library and host ---------------------------------------------------------------------------- */

API int nvmlInitWithFlags(unsigned flags) { (void)flags; ENTER(NO_GPU); initialised = 1; return SUCCESS; }
API int nvmlInit_v2(void) { ENTER(NO_GPU); initialised = 1; return SUCCESS; }
API int nvmlShutdown(void) { ENTER(NO_GPU); initialised = 0; return SUCCESS; }

API const char *nvmlErrorString(int code)
{
    switch (code) {
    case 0: return "Success";
    case 1: return "Uninitialized";
    case 2: return "Invalid Argument";
    case 3: return "Not Supported";
    case 4: return "Insufficient Permissions";
    case 6: return "Not Found";
    case 9: return "Driver Not Loaded";
    case 10: return "Timeout";
    case 12: return "NVML Shared Library Not Found";
    case 13: return "Function Not Found";
    case 14: return "Corrupted infoROM";
    case 15: return "GPU is lost";
    case 16: return "GPU requires reset";
    case 18: return "Driver/library version mismatch";
    default: return "Unknown Error";
    }
}

API int nvmlSystemGetDriverVersion(char *out, unsigned size) { ENTER(NO_GPU); return text(NO_GPU, "driver", "575.57.08", out, size); }
API int nvmlSystemGetNVMLVersion(char *out, unsigned size) { ENTER(NO_GPU); return text(NO_GPU, "nvml", "12.575.57.08", out, size); }
API int nvmlSystemGetCudaDriverVersion(int *out) { ENTER(NO_GPU); PUT(int, out, NO_GPU, "cuda", "12090"); return SUCCESS; }
API int nvmlSystemGetCudaDriverVersion_v2(int *out) { ENTER(NO_GPU); PUT(int, out, NO_GPU, "cuda", "12090"); return SUCCESS; }
API int nvmlSystemGetProcessName(unsigned pid, char *out, unsigned size)
{
    (void)pid;
    ENTER(NO_GPU);
    return text(NO_GPU, "process_name", "python3", out, size);
}

/* ---- devices ------------------------------------------------------------------------------------- */

API int nvmlDeviceGetCount_v2(unsigned *out) { ENTER(NO_GPU); *out = (unsigned)gpu_count(); return SUCCESS; }

API int nvmlDeviceGetHandleByIndex_v2(unsigned index, struct device **out)
{
    ENTER((int)index);
    if (index >= (unsigned)gpu_count())
        return INVALID_ARGUMENT;
    *out = &whole[index];
    return SUCCESS;
}

static void uuid_of(const struct device *d, char *out, unsigned size)
{
    char key[32] = "uuid", otherwise[64];
    snprintf(otherwise, sizeof otherwise, "GPU-00000000-0000-4000-8000-%012d", d->gpu);
    if (d->mig != NO_GPU) {
        snprintf(key, sizeof key, "mig.%d.uuid", d->mig);
        snprintf(otherwise, sizeof otherwise, "MIG-00000000-0000-4000-%04d-%012d", d->mig, d->gpu);
    }
    if (text(d->gpu, key, otherwise, out, size))
        *out = 0;
}

static void bus_of(int gpu, char *out, unsigned size)
{
    char otherwise[32];
    snprintf(otherwise, sizeof otherwise, "00000000:%02X:00.0", gpu + 1);
    if (text(gpu, "pci", otherwise, out, size))
        *out = 0;
}

API int nvmlDeviceGetHandleByUUID(const char *uuid, struct device **out)
{
    ENTER(NO_GPU);
    for (int gpu = 0; gpu < gpu_count(); gpu++)
        for (int mig = NO_GPU; mig < MAX_MIG; mig++) {
            struct device *d = mig == NO_GPU ? &whole[gpu] : &slices[gpu][mig];
            char own[96];
            uuid_of(d, own, sizeof own);
            if (!strcmp(own, uuid)) {
                *out = d;
                return SUCCESS;
            }
        }
    return NOT_FOUND;
}

API int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, struct device **out)
{
    ENTER(NO_GPU);
    for (int gpu = 0; gpu < gpu_count(); gpu++) {
        char own[32];
        bus_of(gpu, own, sizeof own);
        if (!strcasecmp(own, bus)) {
            *out = &whole[gpu];
            return SUCCESS;
        }
    }
    return NOT_FOUND;
}

API int nvmlDeviceGetUUID(struct device *d, char *out, unsigned size)
{
    long long ignored = 0;
    ENTER(d->gpu);
    const char *value = d->mig == NO_GPU ? value_of(d->gpu, "uuid") : NULL;
    if (value && *value == '!')
        return number(d->gpu, "uuid", NULL, &ignored);
    uuid_of(d, out, size);
    return SUCCESS;
}

API int nvmlDeviceGetIndex(struct device *d, unsigned *out) { ENTER(d->gpu); *out = (unsigned)d->gpu; return SUCCESS; }

API int nvmlDeviceGetMinorNumber(struct device *d, unsigned *out)
{
    char own[8];
    ENTER(d->gpu);
    snprintf(own, sizeof own, "%d", d->gpu);
    PUT(unsigned, out, d->gpu, "minor", own);
    return SUCCESS;
}

struct pci_info { char legacy[16]; unsigned domain, bus, device, id, subsystem; char bus_id[32]; };

API int nvmlDeviceGetPciInfo_v3(struct device *d, struct pci_info *out)
{
    long long id = 0;
    ENTER(d->gpu);
    memset(out, 0, sizeof *out);
    bus_of(d->gpu, out->bus_id, sizeof out->bus_id);
    sscanf(out->bus_id, "%x:%x:%x", &out->domain, &out->bus, &out->device);
    snprintf(out->legacy, sizeof out->legacy, "%04x:%02x:%02x.0", out->domain & 0xffff, out->bus & 0xff, out->device & 0xff);
    int code = number(d->gpu, "pci_device_id", "0x27b810de", &id);
    out->id = (unsigned)id;
    return code;
}

/* A MIG device is named after its GPU and its profile. */
API int nvmlDeviceGetName(struct device *d, char *out, unsigned size)
{
    char key[32], profile[64] = "";
    ENTER(d->gpu);
    int code = text(d->gpu, "name", "NVIDIA L4", out, size);
    if (code || d->mig == NO_GPU)
        return code;
    snprintf(key, sizeof key, "mig.%d.profile", d->mig);
    if (!text(d->gpu, key, NULL, profile, sizeof profile))
        snprintf(out + strlen(out), size - strlen(out), " MIG %s", profile);
    return SUCCESS;
}
TEXT(nvmlDeviceGetSerial, "serial", NULL)
TEXT(nvmlDeviceGetVbiosVersion, "vbios", "95.04.29.00.06")
TEXT(nvmlDeviceGetInforomImageVersion, "inforom", "G193.0200.00.01")
TEXT(nvmlDeviceGetGspFirmwareVersion, "gsp_version", NULL)
NUMBER(nvmlDeviceGetArchitecture, unsigned, "architecture", "8")
NUMBER(nvmlDeviceGetBrand, unsigned, "brand", "14")
PAIR(nvmlDeviceGetCudaComputeCapability, int, "cc_major", "8", "cc_minor", "9")
PAIR(nvmlDeviceGetGspFirmwareMode, unsigned, "gsp_enabled", NULL, "gsp_default", "1")

/* ---- memory, temperature, power, clocks ---------------------------------------------------------- */

#define MEMORY "24152899584"

/* mig.N.memory_total and mig.N.memory_used of a MIG device; those of its GPU where it has none */
static const char *memory_key(const struct device *d, const char *key, char *full, unsigned size)
{
    snprintf(full, size, "mig.%d.%s", d->mig, key);
    return d->mig != NO_GPU && value_of(d->gpu, full) ? full : key;
}

struct memory { unsigned long long total, free, used; };
struct memory_v2 { unsigned version; unsigned long long total, reserved, free, used; };

API int nvmlDeviceGetMemoryInfo(struct device *d, struct memory *out)
{
    char full[64];
    ENTER(d->gpu);
    PUT(unsigned long long, &out->total, d->gpu, memory_key(d, "memory_total", full, sizeof full), MEMORY);
    PUT(unsigned long long, &out->used, d->gpu, memory_key(d, "memory_used", full, sizeof full), "0");
    out->free = out->total - out->used;
    return SUCCESS;
}

API int nvmlDeviceGetMemoryInfo_v2(struct device *d, struct memory_v2 *out)
{
    char full[64];
    ENTER(d->gpu);
    PUT(unsigned long long, &out->total, d->gpu, memory_key(d, "memory_total", full, sizeof full), MEMORY);
    PUT(unsigned long long, &out->used, d->gpu, memory_key(d, "memory_used", full, sizeof full), "0");
    PUT(unsigned long long, &out->reserved, d->gpu, "memory_reserved", "0");
    out->free = out->total - out->used - out->reserved;
    return SUCCESS;
}

struct bar1 { unsigned long long total, free, used; };
API int nvmlDeviceGetBAR1MemoryInfo(struct device *d, struct bar1 *out)
{
    ENTER(d->gpu);
    PUT(unsigned long long, &out->total, d->gpu, "bar1_total", "34359738368");
    PUT(unsigned long long, &out->used, d->gpu, "bar1_used", "0");
    out->free = out->total - out->used;
    return SUCCESS;
}

struct rates { unsigned gpu, memory; };
API int nvmlDeviceGetUtilizationRates(struct device *d, struct rates *out)
{
    ENTER(d->gpu);
    PUT(unsigned, &out->gpu, d->gpu, "utilization", "0");
    PUT(unsigned, &out->memory, d->gpu, "utilization_memory", "0");
    return SUCCESS;
}

static double now_seconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec / 1e9;
}

/* gpu.N.samples 90 100 50: what the driver's buffer holds, six a second, over and over; MIG devices have none */
#define MAX_SAMPLES 120
struct sample { unsigned long long timestamp, value; };
API int nvmlDeviceGetSamples(struct device *d, unsigned kind, unsigned long long since, unsigned *type, unsigned *count, struct sample *out)
{
    const char *list = value_of(d->gpu, "samples");
    unsigned long long values[32], last = (unsigned long long)(now_seconds() * 6);
    unsigned known = 0, found = 0;
    int used;
    (void)kind;
    ENTER(d->gpu);
    if (!list || d->mig != NO_GPU)
        return NOT_SUPPORTED;
    if (*list == '!')
        return atoi(list + 1);
    while (known < 32 && sscanf(list, " %llu%n", &values[known], &used) == 1) {
        list += used;
        known++;
    }
    *type = 1;                                       /* unsigned int */
    for (unsigned long long i = last - MAX_SAMPLES + 1; known && i <= last; i++) {
        unsigned long long stamp = i * 1000000ULL / 6;
        if (stamp <= since)
            continue;
        if (out && found < *count)
            out[found] = (struct sample){stamp, values[i % known]};
        found++;
    }
    if (!found)
        return NOT_FOUND;
    *count = out && found > *count ? *count : found;
    return SUCCESS;
}

/* gpu.N.energy in millijoules; without it, what gpu.N.power has made of it since the epoch */
API int nvmlDeviceGetTotalEnergyConsumption(struct device *d, unsigned long long *out)
{
    long long milliwatts = 0;
    ENTER(d->gpu);
    if (value_of(d->gpu, "energy")) {
        PUT(unsigned long long, out, d->gpu, "energy", NULL);
        return SUCCESS;
    }
    PUT(long long, &milliwatts, d->gpu, "power", "16230");
    *out = (unsigned long long)(now_seconds() * (double)milliwatts);
    return SUCCESS;
}

struct temperature { unsigned version, sensor; int temperature; };
API int nvmlDeviceGetTemperatureV(struct device *d, struct temperature *out)
{
    ENTER(d->gpu);
    PUT(int, &out->temperature, d->gpu, "temp", "41");
    return SUCCESS;
}
struct margin { unsigned version; int margin; };
API int nvmlDeviceGetMarginTemperature(struct device *d, struct margin *out)
{
    ENTER(d->gpu);
    PUT(int, &out->margin, d->gpu, "margin", NULL);
    return SUCCESS;
}
NUMBER_OF(nvmlDeviceGetTemperature, unsigned, "temp", "41")
/* kind: 0 shutdown, 1 slowdown, 2 the memory's; others are not supported */
API int nvmlDeviceGetTemperatureThreshold(struct device *d, unsigned kind, unsigned *out)
{
    static const char *keys[] = {"temp_shutdown", "temp_slowdown", "temp_memory_max"};
    ENTER(d->gpu);
    if (kind > 2)
        return NOT_SUPPORTED;
    const char *general = value_of(d->gpu, "temp_threshold");
    PUT(unsigned, out, d->gpu, keys[kind], kind == 2 ? NULL : general ? general : "92");
    return SUCCESS;
}
NUMBER(nvmlDeviceGetPowerUsage, unsigned, "power", "16230")
NUMBER(nvmlDeviceGetEnforcedPowerLimit, unsigned, "power_limit", "72000")
NUMBER(nvmlDeviceGetPowerManagementLimit, unsigned, "power_limit", "72000")
NUMBER(nvmlDeviceGetPowerManagementDefaultLimit, unsigned, "power_default", "72000")
PAIR(nvmlDeviceGetPowerManagementLimitConstraints, unsigned, "power_min", "40000", "power_max", "72000")
NUMBER(nvmlDeviceGetPerformanceState, unsigned, "pstate", "8")
NUMBER(nvmlDeviceGetCurrentClocksEventReasons, unsigned long long, "clock_reasons", "1")
NUMBER(nvmlDeviceGetCurrentClocksThrottleReasons, unsigned long long, "clock_reasons", "1")
NUMBER(nvmlDeviceGetSupportedClocksEventReasons, unsigned long long, "clock_reasons_supported", "0x1ff")
NUMBER_OF(nvmlDeviceGetClockInfo, unsigned, "clock", "210")
NUMBER_OF(nvmlDeviceGetMaxClockInfo, unsigned, "clock_max", "2040")
NUMBER_OF(nvmlDeviceGetApplicationsClock, unsigned, "clock_app", "2040")
NUMBER_OF(nvmlDeviceGetDefaultApplicationsClock, unsigned, "clock_app_default", "2040")
struct violation { unsigned long long reference, violation; };
API int nvmlDeviceGetViolationStatus(struct device *d, unsigned policy, struct violation *out)
{
    (void)policy;
    ENTER(d->gpu);
    out->reference = 0;
    PUT(unsigned long long, &out->violation, d->gpu, "violation", "0");
    return SUCCESS;
}

/* ---- PCIe, ECC, rows ----------------------------------------------------------------------------- */

NUMBER(nvmlDeviceGetCurrPcieLinkGeneration, unsigned, "pcie_gen", "1")
NUMBER(nvmlDeviceGetMaxPcieLinkGeneration, unsigned, "pcie_gen_max", "4")
NUMBER(nvmlDeviceGetGpuMaxPcieLinkGeneration, unsigned, "pcie_gen_max", "4")
NUMBER(nvmlDeviceGetCurrPcieLinkWidth, unsigned, "pcie_width", "16")
NUMBER(nvmlDeviceGetMaxPcieLinkWidth, unsigned, "pcie_width_max", "16")
NUMBER(nvmlDeviceGetPcieReplayCounter, unsigned, "pcie_replay", "0")
PAIR(nvmlDeviceGetEccMode, unsigned, "ecc", "1", "ecc_pending", "1")

/* error: 0 corrected, 1 uncorrected; counter: 0 volatile, 1 aggregate */
static const char *ecc_key(unsigned error, unsigned counter)
{
    static const char *keys[2][2] = {{"ecc_corr_volatile", "ecc_corr_aggregate"}, {"ecc_unc_volatile", "ecc_unc_aggregate"}};
    return keys[error & 1][counter & 1];
}
API int nvmlDeviceGetTotalEccErrors(struct device *d, unsigned error, unsigned counter, unsigned long long *out)
{
    ENTER(d->gpu);
    PUT(unsigned long long, out, d->gpu, ecc_key(error, counter), "0");
    return SUCCESS;
}
API int nvmlDeviceGetMemoryErrorCounter(struct device *d, unsigned error, unsigned counter, unsigned where, unsigned long long *out)
{
    (void)where;
    ENTER(d->gpu);
    PUT(unsigned long long, out, d->gpu, ecc_key(error, counter), "0");
    return SUCCESS;
}
struct sram { unsigned version; unsigned long long counters[11]; unsigned exceeded; };
API int nvmlDeviceGetSramEccErrorStatus(struct device *d, struct sram *out)
{
    ENTER(d->gpu);
    memset(out->counters, 0, sizeof out->counters);
    PUT(unsigned, &out->exceeded, d->gpu, "sram_exceeded", NULL);
    return SUCCESS;
}
API int nvmlDeviceGetRemappedRows(struct device *d, unsigned *corrected, unsigned *uncorrected, unsigned *pending, unsigned *failure)
{
    ENTER(d->gpu);
    PUT(unsigned, corrected, d->gpu, "remap_corr", "0");
    PUT(unsigned, uncorrected, d->gpu, "remap_unc", "0");
    PUT(unsigned, pending, d->gpu, "remap_pending", "0");
    PUT(unsigned, failure, d->gpu, "remap_failure", "0");
    return SUCCESS;
}
struct remapped_v2 { unsigned corrected, corrected_off, uncorrected, uncorrected_off, pending, failure; };
API int nvmlDeviceGetRemappedRows_v2(struct device *d, struct remapped_v2 *out)
{
    ENTER(d->gpu);
    memset(out, 0, sizeof *out);
    PUT(unsigned, &out->corrected, d->gpu, "remap_corr", "0");
    PUT(unsigned, &out->uncorrected, d->gpu, "remap_unc", "0");
    PUT(unsigned, &out->pending, d->gpu, "remap_pending", "0");
    PUT(unsigned, &out->failure, d->gpu, "remap_failure", "0");
    return SUCCESS;
}
struct histogram { unsigned max, high, partial, low, none; };
API int nvmlDeviceGetRowRemapperHistogram(struct device *d, struct histogram *out)
{
    ENTER(d->gpu);
    memset(out, 0, sizeof *out);
    PUT(unsigned, &out->max, d->gpu, "remap_banks", "96");
    return SUCCESS;
}
NUMBER(nvmlDeviceGetRetiredPagesPendingStatus, unsigned, "retired_pending", NULL)
struct repair { unsigned version, channel, tpc; };
API int nvmlDeviceGetRepairStatus(struct device *d, struct repair *out)
{
    ENTER(d->gpu);
    PUT(unsigned, &out->channel, d->gpu, "repair_channel", NULL);
    PUT(unsigned, &out->tpc, d->gpu, "repair_tpc", "0");
    return SUCCESS;
}
/* cause: 0 repeated single-bit errors, 1 a double-bit error; gpu.N.retired_single and retired_double are counts */
API int nvmlDeviceGetRetiredPages(struct device *d, unsigned cause, unsigned *count, unsigned long long *out)
{
    long long found = 0;
    unsigned room = out ? *count : 0;
    ENTER(d->gpu);
    PUT(long long, &found, d->gpu, cause ? "retired_double" : "retired_single", NULL);
    *count = (unsigned)found;
    if (found > room)
        return INSUFFICIENT_SIZE;
    for (long long i = 0; i < found; i++)
        out[i] = 0x10000ULL * (unsigned long long)(i + 1);
    return SUCCESS;
}
ABSENT(nvmlDeviceGetRetiredPages_v2)
API int nvmlDeviceValidateInforom(struct device *d)
{
    long long code = 0;
    ENTER(d->gpu);
    number(d->gpu, "inforom_valid", "0", &code);
    return (int)code;
}

/* ---- modes, MIG ---------------------------------------------------------------------------------- */

NUMBER(nvmlDeviceGetPersistenceMode, unsigned, "persistence", "1")
NUMBER(nvmlDeviceGetComputeMode, unsigned, "compute_mode", "0")
PAIR(nvmlDeviceGetMigMode, unsigned, "mig", NULL, "mig_pending", NULL)

API int nvmlDeviceGetMaxMigDeviceCount(struct device *d, unsigned *out)
{
    long long on = 0;
    ENTER(d->gpu);
    number(d->gpu, "mig", "0", &on);
    *out = on == 1 ? MAX_MIG - 1 : 0;
    return SUCCESS;
}
API int nvmlDeviceGetMigDeviceHandleByIndex(struct device *d, unsigned index, struct device **out)
{
    long long count = 0;
    ENTER(d->gpu);
    number(d->gpu, "mig_devices", "0", &count);
    if (index >= (unsigned)count || index >= MAX_MIG)
        return NOT_FOUND;
    *out = &slices[d->gpu][index];
    return SUCCESS;
}
API int nvmlDeviceGetDeviceHandleFromMigDeviceHandle(struct device *d, struct device **out)
{
    ENTER(d->gpu);
    *out = &whole[d->gpu];
    return SUCCESS;
}
API int nvmlDeviceIsMigDeviceHandle(struct device *d, unsigned *out) { ENTER(d->gpu); *out = d->mig != NO_GPU; return SUCCESS; }
API int nvmlDeviceGetGpuInstanceId(struct device *d, unsigned *out) { ENTER(d->gpu); *out = (unsigned)(d->mig + 1); return SUCCESS; }
API int nvmlDeviceGetComputeInstanceId(struct device *d, unsigned *out) { ENTER(d->gpu); *out = 0; return SUCCESS; }
struct attributes { unsigned counts[8]; unsigned long long memory_mebibytes; };
/* counts: 6 and 7 are the slices of the GPU instance and of the compute instance */
API int nvmlDeviceGetAttributes_v2(struct device *d, struct attributes *out)
{
    char slices[32], compute[32];
    ENTER(d->gpu);
    memset(out, 0, sizeof *out);
    snprintf(slices, sizeof slices, "mig.%d.slices", d->mig);
    snprintf(compute, sizeof compute, "mig.%d.compute_slices", d->mig);
    PUT(unsigned, &out->counts[6], d->gpu, slices, "1");
    PUT(unsigned, &out->counts[7], d->gpu, compute, value_of(d->gpu, slices) ? value_of(d->gpu, slices) : "1");
    PUT(unsigned long long, &out->memory_mebibytes, d->gpu, "mig_memory_mib", "4864");
    return SUCCESS;
}

/* ---- processes ----------------------------------------------------------------------------------- */

struct process { unsigned pid; unsigned long long memory; unsigned gpu_instance, compute_instance; };

/* gpu.N.<key> PID:BYTES PID:BYTES ... */
static int processes(const struct device *d, const char *key, unsigned *count, struct process *out)
{
    const char *list = value_of(d->gpu, key);
    unsigned found = 0, room = out ? *count : 0;
    unsigned pid;
    unsigned long long memory;
    int used;
    if (list && *list == '!')
        return atoi(list + 1);
    for (; list && sscanf(list, " %u:%llu%n", &pid, &memory, &used) == 2; list += used, found++)
        if (found < room)
            out[found] = (struct process){pid, memory, ~0u, ~0u};
    *count = found;
    return found > room ? INSUFFICIENT_SIZE : SUCCESS;
}
#define PROCESSES(function, key) \
    API int function(struct device *d, unsigned *count, struct process *out) \
    { ENTER(d->gpu); return processes(d, key, count, out); }
PROCESSES(nvmlDeviceGetComputeRunningProcesses_v3, "compute_processes")
PROCESSES(nvmlDeviceGetGraphicsRunningProcesses_v3, "graphics_processes")
PROCESSES(nvmlDeviceGetMPSComputeRunningProcesses_v3, "mps_processes")

/* ---- NVLink, fabric, fields, events -------------------------------------------------------------- */

/* gpu.N.nvlink 1101: one digit for each link, 1 when it is active */
API int nvmlDeviceGetNvLinkState(struct device *d, unsigned link, unsigned *out)
{
    const char *links = value_of(d->gpu, "nvlink");
    ENTER(d->gpu);
    if (!links)
        return NOT_SUPPORTED;
    if (*links == '!')
        return atoi(links + 1);
    if (link >= strlen(links))
        return INVALID_ARGUMENT;
    *out = links[link] == '1';
    return SUCCESS;
}
/* gpu.N.nvlink_remote BUS BUS ...: the PCI address at the other end of each link, a GPU's or a switch's */
API int nvmlDeviceGetNvLinkRemotePciInfo_v2(struct device *d, unsigned link, struct pci_info *out)
{
    const char *places = value_of(d->gpu, "nvlink_remote");
    char place[32];
    int used;
    ENTER(d->gpu);
    if (!places)
        return NOT_SUPPORTED;
    for (; sscanf(places, " %31s%n", place, &used) == 1; places += used)
        if (!link--) {
            memset(out, 0, sizeof *out);
            snprintf(out->bus_id, sizeof out->bus_id, "%s", place);
            return SUCCESS;
        }
    return INVALID_ARGUMENT;
}

/* The number for another GPU in a list with one number for each GPU of the host. */
static int number_for(const struct device *d, const struct device *other, const char *key, unsigned *out)
{
    const char *list = value_of(d->gpu, key);
    int used;
    for (int gpu = 0; list && sscanf(list, " %u%n", out, &used) == 1; list += used, gpu++)
        if (gpu == other->gpu)
            return SUCCESS;
    return NOT_SUPPORTED;
}
/* gpu.N.topology 0 10 30 50: nvmlGpuTopologyLevel_t to each GPU */
API int nvmlDeviceGetTopologyCommonAncestor(struct device *d, struct device *other, unsigned *out)
{
    ENTER(d->gpu);
    return number_for(d, other, "topology", out);
}
/* gpu.N.nvlink_p2p 0 0 1 1: nvmlGpuP2PStatus_t over NVLink to each GPU, 0 is good; other kinds are not supported */
API int nvmlDeviceGetP2PStatus(struct device *d, struct device *other, unsigned kind, unsigned *out)
{
    ENTER(d->gpu);
    return kind == 2 ? number_for(d, other, "nvlink_p2p", out) : NOT_SUPPORTED;
}
API int nvmlDeviceGetNvLinkErrorCounter(struct device *d, unsigned link, unsigned kind, unsigned long long *out)
{
    (void)link;
    (void)kind;
    ENTER(d->gpu);
    PUT(unsigned long long, out, d->gpu, "nvlink_errors", NULL);
    return SUCCESS;
}
ABSENT(nvmlDeviceGetGpuFabricInfo)
struct fabric { unsigned version; unsigned char cluster[16]; unsigned status, clique, state, health; };
API int nvmlDeviceGetGpuFabricInfoV(struct device *d, struct fabric *out)
{
    ENTER(d->gpu);
    PUT(unsigned, &out->state, d->gpu, "fabric_state", NULL);
    PUT(unsigned, &out->status, d->gpu, "fabric_status", "0");
    PUT(unsigned, &out->health, d->gpu, "fabric_health", "0");
    return SUCCESS;
}

struct field { unsigned id, scope; long long timestamp, latency; unsigned type; int code; unsigned long long value; };
API int nvmlDeviceGetFieldValues(struct device *d, int count, struct field *fields)
{
    ENTER(d->gpu);
    for (int i = 0; i < count; i++) {
        char key[32];
        long long value = 0;
        snprintf(key, sizeof key, "field.%u", fields[i].id);
        fields[i].code = number(d->gpu, key, NULL, &value);
        fields[i].type = 1;                          /* unsigned int */
        fields[i].value = (unsigned long long)value;
    }
    return SUCCESS;
}

NUMBER(nvmlDeviceGetSupportedEventTypes, unsigned long long, "event_types", "8")
API int nvmlEventSetCreate(void **out) { ENTER(NO_GPU); *out = &initialised; return SUCCESS; }
API int nvmlDeviceRegisterEvents(struct device *d, unsigned long long types, void *set) { (void)types; (void)set; ENTER(d->gpu); return SUCCESS; }
API int nvmlEventSetFree(void *set) { (void)set; ENTER(NO_GPU); return SUCCESS; }

struct event { struct device *device; unsigned long long type, data; unsigned gpu_instance, compute_instance; };
/* event.xid N on event.gpu M is told once, then there is nothing to wait for. */
API int nvmlEventSetWait_v2(void *set, struct event *out, unsigned milliseconds)
{
    static int told;
    long long xid = 0, gpu = 0;
    struct timespec wait_for = {milliseconds / 1000, milliseconds % 1000 * 1000000L};
    (void)set;
    ENTER(NO_GPU);
    if (!told++ && !number(NO_GPU, "event.xid", NULL, &xid)) {
        number(NO_GPU, "event.gpu", "0", &gpu);
        *out = (struct event){&whole[gpu], 8, (unsigned long long)xid, ~0u, ~0u};
        return SUCCESS;
    }
    nanosleep(&wait_for, NULL);
    return TIMEOUT;
}
