/* A stand-in for the driver's libnvidia-ml.so.1: GPUs that replay a trace, and call themselves a replay.
 *
 * The trace is a CSV file, $NVML_STUB_TRACE or trace.csv beside this library, with the columns of NAMES in any order, as
 * `bench telemetry record` writes it. Each row holds for its GPU from its time_s on, the last one for ever; time 0 is when
 * this library was loaded. A value "!N" is NVML's error N; what a trace lacks, a column or one value, is not supported, and
 * so is everything where there is no trace beside the library (but gpu_memory_util_percent, which is then 0). Without a
 * column `gpu` there is one, UUID. A UUID that begins with MIG- is an instance of the GPU that is named before it. A line
 * that begins with # is a comment.
 *
 * $NVML_STUB_INIT=N         nvmlInit answers error N
 * $NVML_STUB_PROGRAMS=FILE  who computes on the first GPU, read at every question: lines of "process bytes percent"
 *
 * To answer more, add a column; nvml.h, which is NVIDIA's own, holds the signatures to the real ones.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <libgen.h>
#include <math.h>
#include <nvml.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifndef UUID
#define UUID "GPU-53545542-0000-4000-8000-000000000000"
#endif
#define NAME "STUB-GPU (replay)"
#define DRIVER "0.0-stub"
#define MOST_GPUS 64
#define MOST_PROGRAMS 32

enum {
    TIME, TOTAL, UTIL, MEMORY_UTIL, USED, RESERVED, POWER, POWER_AVERAGE, POWER_INSTANT, ENERGY, SM_CLOCK, MEMORY_CLOCK,
    TEMPERATURE, MEMORY_TEMPERATURE, REASONS, THERMAL, POWER_CAP, BOARD_LIMIT, SYNC_BOOST, PCIE_TX, PCIE_RX, NVLINK_TX,
    NVLINK_RX, ECC_CORRECTED, ECC_UNCORRECTED, ARCHITECTURE, COLUMNS
};
static const char *const NAMES[COLUMNS] = {
    "time_s", "memory_total_bytes", "gpu_util_percent", "gpu_memory_util_percent", "gpu_memory_used_bytes",
    "gpu_memory_reserved_bytes", "power_mw", "power_average_mw", "power_instant_mw", "energy_mj", "sm_clock_mhz",
    "memory_clock_mhz", "temperature_c", "memory_temperature_c", "clock_reasons", "thermal_ns", "power_cap_ns",
    "board_limit_ns", "sync_boost_ns", "pcie_tx_bytes", "pcie_rx_bytes", "nvlink_tx_kib", "nvlink_rx_kib",
    "ecc_corrected", "ecc_uncorrected", "architecture"};

typedef double row_t[COLUMNS]; /* NAN: not told; -N: error N */

struct nvmlDevice_st {
    char uuid[96];
    int rows, place; /* place: of the row that holds now */
    row_t *trace;
};
static struct nvmlDevice_st gpus[MOST_GPUS];
static int count = 0; /* of gpus, instances too */
static int users = 0; /* nvmlInit less nvmlShutdown */
static double loaded_s;

static double now_s(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec + t.tv_nsec / 1e9;
}

__attribute__((constructor)) static void load(void) { loaded_s = now_s(); }

static FILE *open_trace(void) {
    char path[4096];
    Dl_info self;
    const char *given = getenv("NVML_STUB_TRACE");
    if (given) return fopen(given, "r");
    if (!dladdr((void *)open_trace, &self)) return NULL;
    snprintf(path, sizeof path, "%s", self.dli_fname);
    dirname(path);
    strncat(path, "/trace.csv", sizeof path - strlen(path) - 1);
    return fopen(path, "r");
}

static struct nvmlDevice_st *gpu_named(const char *uuid) {
    for (int i = 0; i < count; i++)
        if (!strcmp(gpus[i].uuid, uuid)) return &gpus[i];
    if (count == MOST_GPUS) abort();
    snprintf(gpus[count].uuid, sizeof gpus[count].uuid, "%s", uuid);
    return &gpus[count++];
}

static void add_row(const char *uuid, const row_t row) {
    struct nvmlDevice_st *gpu = gpu_named(uuid);
    if ((gpu->rows & (gpu->rows - 1)) == 0) /* full, at a power of two */
        gpu->trace = realloc(gpu->trace, 2 * (gpu->rows + 1) * sizeof *gpu->trace);
    memcpy(gpu->trace[gpu->rows++], row, sizeof(row_t));
}

static void read_trace(FILE *file) {
    char *line = NULL;
    size_t room = 0;
    int meaning[2 * COLUMNS], columns = 0; /* of each column of the file: of NAMES, or -1, or -2: gpu */
    while (getline(&line, &room, file) > 0) {
        char *rest = line, *word;
        const char *uuid = UUID;
        int heading = columns == 0;
        row_t row;
        if (*line == '#') continue;
        for (int i = 0; i < COLUMNS; i++) row[i] = NAN;
        for (int i = 0; i < 2 * COLUMNS && (word = strsep(&rest, ",\r\n")) && (heading || i < columns); i++) {
            if (heading) {
                if (!*word) break; /* the end of the line */
                columns = i + 1;
                meaning[i] = strcmp(word, "gpu") ? COLUMNS - 1 : -2;
                while (meaning[i] >= 0 && strcmp(word, NAMES[meaning[i]])) meaning[i]--;
            } else if (meaning[i] == -2)
                uuid = word;
            else if (meaning[i] >= 0 && *word)
                row[meaning[i]] = *word == '!' ? -strtod(word + 1, NULL) : strtod(word, NULL);
        }
        if (!heading) add_row(uuid, row);
    }
    free(line);
    fclose(file);
}

/* The value of a column now. */
static nvmlReturn_t told(nvmlDevice_t device, int column, double *value) {
    if (!users) return NVML_ERROR_UNINITIALIZED;
    if (device < gpus || device >= gpus + (count ? count : 1)) return NVML_ERROR_INVALID_ARGUMENT;
    double since_s = now_s() - loaded_s;
    while (device->place + 1 < device->rows && device->trace[device->place + 1][TIME] <= since_s) device->place++;
    *value = device->rows ? device->trace[device->place][column] : NAN;
    return isnan(*value) ? NVML_ERROR_NOT_SUPPORTED : *value < 0 ? (nvmlReturn_t)-*value : NVML_SUCCESS;
}

#define TELL(column, target)                                \
    do {                                                    \
        double value;                                       \
        nvmlReturn_t answer = told(device, column, &value); \
        if (answer != NVML_SUCCESS) return answer;          \
        (target) = value;                                   \
    } while (0)

static nvmlReturn_t text(const char *words, char *into, unsigned int size) {
    if (!users) return NVML_ERROR_UNINITIALIZED;
    return snprintf(into, size, "%s", words) < (int)size ? NVML_SUCCESS : NVML_ERROR_INSUFFICIENT_SIZE;
}

nvmlReturn_t nvmlInitWithFlags(unsigned int flags) {
    static int tried = 0;
    FILE *file = tried++ ? NULL : open_trace();
    if (file) read_trace(file);
    if (getenv("NVML_STUB_INIT")) return atoi(getenv("NVML_STUB_INIT"));
    if (!count && getenv("NVML_STUB_TRACE")) return NVML_ERROR_DRIVER_NOT_LOADED;
    if (!count) gpu_named(UUID);
    users++;
    return flags ? NVML_ERROR_INVALID_ARGUMENT : NVML_SUCCESS;
}
nvmlReturn_t nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
nvmlReturn_t nvmlShutdown(void) { return users ? (users--, NVML_SUCCESS) : NVML_ERROR_UNINITIALIZED; }

const char *nvmlErrorString(nvmlReturn_t result) {
    switch (result) {
    case NVML_SUCCESS: return "Success";
    case NVML_ERROR_UNINITIALIZED: return "Uninitialized";
    case NVML_ERROR_INVALID_ARGUMENT: return "Invalid Argument";
    case NVML_ERROR_NOT_SUPPORTED: return "Not Supported";
    case NVML_ERROR_INSUFFICIENT_SIZE: return "Insufficient Size";
    case NVML_ERROR_DRIVER_NOT_LOADED: return "Driver Not Loaded";
    default: return "Unknown Error";
    }
}

/* ---------------------------------------------------------------- which GPUs there are */

static int is_instance(int i) { return !strncmp(gpus[i].uuid, "MIG-", 4); }

/* The n-th GPU, or the n-th instance of the GPU at `parent`; NULL: there are not so many. */
static nvmlDevice_t nth(int parent, unsigned int n) {
    for (int i = parent + 1; i < count; i++) {
        if (parent >= 0 && !is_instance(i)) return NULL;
        if ((parent >= 0) == is_instance(i) && n-- == 0) return &gpus[i];
    }
    return NULL;
}

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int size) { return text(DRIVER, version, size); }
nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *found) {
    for (*found = 0; nth(-1, *found); ++*found);
    return users ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED;
}
nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
    if (!users) return NVML_ERROR_UNINITIALIZED;
    return (*device = nth(-1, index)) ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT;
}
nvmlReturn_t nvmlDeviceGetMaxMigDeviceCount(nvmlDevice_t device, unsigned int *most) {
    *most = nth(device - gpus, 0) ? MOST_GPUS : 0;
    return users ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED;
}
nvmlReturn_t nvmlDeviceGetMigDeviceHandleByIndex(nvmlDevice_t device, unsigned int index, nvmlDevice_t *instance) {
    if (!users) return NVML_ERROR_UNINITIALIZED;
    return (*instance = nth(device - gpus, index)) ? NVML_SUCCESS : NVML_ERROR_NOT_FOUND;
}
nvmlReturn_t nvmlDeviceGetMigMode(nvmlDevice_t device, unsigned int *current, unsigned int *pending) {
    if (!users) return NVML_ERROR_UNINITIALIZED;
    *current = *pending = nth(device - gpus, 0) != NULL;
    return *current ? NVML_SUCCESS : NVML_ERROR_NOT_SUPPORTED;
}
nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int size) { return text(NAME, name, size); }
nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int size) {
    return text(device->uuid, uuid, size);
}
nvmlReturn_t nvmlDeviceGetArchitecture(nvmlDevice_t device, nvmlDeviceArchitecture_t *architecture) {
    TELL(ARCHITECTURE, *architecture);
    return NVML_SUCCESS;
}

/* ---------------------------------------------------------------- what they say */

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
    TELL(TOTAL, memory->total);
    TELL(USED, memory->used);
    TELL(RESERVED, memory->reserved);
    memory->free = memory->total - memory->used - memory->reserved;
    return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilization) {
    double memory;
    TELL(UTIL, utilization->gpu);
    nvmlReturn_t answer = told(device, MEMORY_UTIL, &memory);
    utilization->memory = answer == NVML_SUCCESS ? memory : 0;
    return answer == NVML_ERROR_NOT_SUPPORTED ? NVML_SUCCESS : answer; /* one call for both: untold is 0 */
}
nvmlReturn_t nvmlDeviceGetPowerUsage(nvmlDevice_t device, unsigned int *power_mw) {
    TELL(POWER, *power_mw);
    return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetTotalEnergyConsumption(nvmlDevice_t device, unsigned long long *energy_mj) {
    TELL(ENERGY, *energy_mj);
    return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetClockInfo(nvmlDevice_t device, nvmlClockType_t type, unsigned int *mhz) {
    if (type == NVML_CLOCK_SM) TELL(SM_CLOCK, *mhz);
    else if (type == NVML_CLOCK_MEM) TELL(MEMORY_CLOCK, *mhz);
    else return NVML_ERROR_NOT_SUPPORTED;
    return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, nvmlTemperatureSensors_t sensor, unsigned int *celsius) {
    if (sensor != NVML_TEMPERATURE_GPU) return NVML_ERROR_INVALID_ARGUMENT;
    TELL(TEMPERATURE, *celsius);
    return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetCurrentClocksThrottleReasons(nvmlDevice_t device, unsigned long long *reasons) {
    TELL(REASONS, *reasons);
    return NVML_SUCCESS;
}

static const struct {
    unsigned int field;
    int column, bits;
} FIELDS[] = {
    {NVML_FI_DEV_POWER_AVERAGE, POWER_AVERAGE, 32},
    {NVML_FI_DEV_POWER_INSTANT, POWER_INSTANT, 32},
    {NVML_FI_DEV_MEMORY_TEMP, MEMORY_TEMPERATURE, 32},
    {NVML_FI_DEV_PERF_POLICY_THERMAL, THERMAL, 64},
    {NVML_FI_DEV_PERF_POLICY_POWER, POWER_CAP, 64},
    {NVML_FI_DEV_PERF_POLICY_BOARD_LIMIT, BOARD_LIMIT, 64},
    {NVML_FI_DEV_PERF_POLICY_SYNC_BOOST, SYNC_BOOST, 64},
    {NVML_FI_DEV_PCIE_COUNT_TX_BYTES, PCIE_TX, 32},
    {NVML_FI_DEV_PCIE_COUNT_RX_BYTES, PCIE_RX, 32},
    {NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_TX, NVLINK_TX, 64},
    {NVML_FI_DEV_NVLINK_THROUGHPUT_DATA_RX, NVLINK_RX, 64},
    {NVML_FI_DEV_ECC_SBE_VOL_TOTAL, ECC_CORRECTED, 64},
    {NVML_FI_DEV_ECC_DBE_VOL_TOTAL, ECC_UNCORRECTED, 64},
};

static nvmlReturn_t tell_field(nvmlDevice_t device, nvmlFieldValue_t *value) {
    for (unsigned int i = 0; i < sizeof FIELDS / sizeof *FIELDS; i++) {
        if (FIELDS[i].field != value->fieldId) continue;
        int of_links = FIELDS[i].column == NVLINK_TX || FIELDS[i].column == NVLINK_RX;
        if (of_links && value->scopeId != 0xFFFFFFFF) return NVML_ERROR_NOT_SUPPORTED; /* that is their sum */
        value->valueType = FIELDS[i].bits == 32 ? NVML_VALUE_TYPE_UNSIGNED_INT : NVML_VALUE_TYPE_UNSIGNED_LONG_LONG;
        unsigned long long number;
        TELL(FIELDS[i].column, number);
        if (FIELDS[i].bits == 32) value->value.uiVal = number; /* wraps, as the real one does */
        else value->value.ullVal = number;
        return NVML_SUCCESS;
    }
    return NVML_ERROR_NOT_SUPPORTED;
}
nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int wanted, nvmlFieldValue_t *values) {
    if (!users) return NVML_ERROR_UNINITIALIZED;
    for (int i = 0; i < wanted; i++) values[i].nvmlReturn = tell_field(device, &values[i]);
    return NVML_SUCCESS;
}

/* ---------------------------------------------------------------- who computes on the first of them */

typedef struct {
    unsigned int pid, percent;
    unsigned long long bytes;
} program_t;

/* How many there are, or -1: nobody says so. */
static int read_programs(nvmlDevice_t device, program_t *programs) {
    const char *path = getenv("NVML_STUB_PROGRAMS");
    FILE *file = path ? fopen(path, "r") : NULL;
    int found = 0;
    if (!path) return -1;
    while (file && device == gpus && found < MOST_PROGRAMS &&
           fscanf(file, "%u %llu %u", &programs[found].pid, &programs[found].bytes, &programs[found].percent) == 3)
        found++;
    if (file) fclose(file);
    return found;
}

nvmlReturn_t nvmlDeviceGetComputeRunningProcesses_v3(nvmlDevice_t device, unsigned int *size, nvmlProcessInfo_t *infos) {
    program_t programs[MOST_PROGRAMS];
    double value;
    int found = read_programs(device, programs);
    nvmlReturn_t answer = told(device, UTIL, &value);
    if (answer == NVML_ERROR_UNINITIALIZED || answer == NVML_ERROR_GPU_IS_LOST) return answer;
    if (found < 0) return NVML_ERROR_NOT_SUPPORTED;
    unsigned int room = *size;
    *size = found;
    if (!found) return NVML_SUCCESS;
    if (!infos || room < (unsigned int)found) return NVML_ERROR_INSUFFICIENT_SIZE;
    for (int i = 0; i < found; i++) {
        memset(&infos[i], 0, sizeof infos[i]);
        infos[i].pid = programs[i].pid;
        infos[i].usedGpuMemory = programs[i].bytes;
    }
    return NVML_SUCCESS;
}

/* Without rows it says success, which the binding raises as an error. */
nvmlReturn_t nvmlDeviceGetProcessUtilization(
    nvmlDevice_t device, nvmlProcessUtilizationSample_t *samples, unsigned int *size, unsigned long long since_us) {
    program_t programs[MOST_PROGRAMS];
    int found = read_programs(device, programs), told_of = 0;
    if (!users) return NVML_ERROR_UNINITIALIZED;
    for (int i = 0; i < found; i++) {
        if (!programs[i].percent) continue;
        if (samples) {
            memset(&samples[told_of], 0, sizeof samples[told_of]);
            samples[told_of].pid = programs[i].pid;
            samples[told_of].smUtil = programs[i].percent;
            samples[told_of].timeStamp = since_us + 1;
        }
        told_of++;
    }
    *size = told_of;
    return samples || !told_of ? NVML_SUCCESS : NVML_ERROR_INSUFFICIENT_SIZE;
}

/* Asked for by bench, and in no trace. */
#define ABSENT(name, ...) \
    nvmlReturn_t name(__VA_ARGS__) { return users ? NVML_ERROR_NOT_SUPPORTED : NVML_ERROR_UNINITIALIZED; }
ABSENT(nvmlDeviceGetPersistenceMode, nvmlDevice_t device, nvmlEnableState_t *mode)
ABSENT(nvmlDeviceGetTemperatureThreshold, nvmlDevice_t device, nvmlTemperatureThresholds_t type, unsigned int *celsius)
ABSENT(nvmlDeviceGetNumGpuCores, nvmlDevice_t device, unsigned int *cores)
ABSENT(nvmlDeviceGetMaxClockInfo, nvmlDevice_t device, nvmlClockType_t type, unsigned int *mhz)
