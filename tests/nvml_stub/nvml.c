/* A stand-in for the driver's libnvidia-ml.so.1: one GPU that replays a trace, and calls itself a replay.
 *
 * The trace is a CSV file, $NVML_STUB_TRACE or trace.csv beside this library, with the columns of NAMES in any order.
 * Each row holds from its time_s on, the last one for ever; time 0 is when this library was loaded. What a trace lacks,
 * a column or one value, is not supported, and so is everything where there is no trace beside the library.
 *
 * To answer more, add a column or an ABSENT line; nvml.h, which is NVIDIA's own, holds the signatures to the real ones.
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
#define ROWS 100000

enum { TIME, UTIL, USED, RESERVED, TOTAL, POWER, ENERGY, CLOCK, TEMPERATURE, COLUMNS };
static const char *const NAMES[COLUMNS] = {
    "time_s",   "gpu_util_percent", "memory_used_bytes", "memory_reserved_bytes", "memory_total_bytes",
    "power_mw", "energy_mj",        "sm_clock_mhz",      "temperature_c"};

struct nvmlDevice_st {
    const char *name, *uuid;
    int rows;
    double (*trace)[COLUMNS]; /* NAN: not told */
};
static struct nvmlDevice_st gpu = {NAME, UUID, 0, NULL};
static int users; /* nvmlInit less nvmlShutdown */
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

static void read_trace(FILE *file) {
    char line[1024];
    int meaning[COLUMNS], count = 0; /* of each column of the file */
    gpu.trace = calloc(ROWS, sizeof *gpu.trace);
    for (gpu.rows = -1; gpu.rows < ROWS && fgets(line, sizeof line, file); gpu.rows++) {
        char *rest = line, *word;
        for (int i = 0; gpu.rows >= 0 && i < COLUMNS; i++) gpu.trace[gpu.rows][i] = NAN;
        for (int i = 0; i < COLUMNS && (word = strsep(&rest, ",\r\n")); i++) {
            if (gpu.rows < 0) {
                for (count = i + 1, meaning[i] = COLUMNS - 1; meaning[i] >= 0; meaning[i]--)
                    if (!strcmp(word, NAMES[meaning[i]])) break;
            } else if (i < count && meaning[i] >= 0 && *word)
                gpu.trace[gpu.rows][meaning[i]] = strtod(word, NULL);
        }
    }
    fclose(file);
}

/* The value of a column now. */
static nvmlReturn_t told(nvmlDevice_t device, int column, double *value) {
    if (!users) return NVML_ERROR_UNINITIALIZED;
    if (device != &gpu) return NVML_ERROR_INVALID_ARGUMENT;
    int row = 0;
    while (row + 1 < gpu.rows && gpu.trace[row + 1][TIME] <= now_s() - loaded_s) row++;
    *value = gpu.rows > 0 ? gpu.trace[row][column] : NAN;
    return isnan(*value) ? NVML_ERROR_NOT_SUPPORTED : NVML_SUCCESS;
}

#define TELL(column, target)                                    \
    do {                                                        \
        double value;                                           \
        nvmlReturn_t answer = told(device, column, &value);     \
        if (answer != NVML_SUCCESS) return answer;              \
        (target) = value;                                       \
    } while (0)

static nvmlReturn_t text(const char *words, char *into, unsigned int size) {
    if (!users) return NVML_ERROR_UNINITIALIZED;
    return snprintf(into, size, "%s", words) < (int)size ? NVML_SUCCESS : NVML_ERROR_INSUFFICIENT_SIZE;
}

nvmlReturn_t nvmlInitWithFlags(unsigned int flags) {
    FILE *file = gpu.trace ? NULL : open_trace();
    if (file) read_trace(file);
    if (!gpu.trace && getenv("NVML_STUB_TRACE")) return NVML_ERROR_DRIVER_NOT_LOADED;
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

nvmlReturn_t nvmlSystemGetDriverVersion(char *version, unsigned int size) { return text(DRIVER, version, size); }
nvmlReturn_t nvmlDeviceGetCount_v2(unsigned int *count) {
    *count = 1;
    return users ? NVML_SUCCESS : NVML_ERROR_UNINITIALIZED;
}
nvmlReturn_t nvmlDeviceGetHandleByIndex_v2(unsigned int index, nvmlDevice_t *device) {
    *device = &gpu;
    return users ? (index ? NVML_ERROR_INVALID_ARGUMENT : NVML_SUCCESS) : NVML_ERROR_UNINITIALIZED;
}
nvmlReturn_t nvmlDeviceGetName(nvmlDevice_t device, char *name, unsigned int size) {
    return text(device->name, name, size);
}
nvmlReturn_t nvmlDeviceGetUUID(nvmlDevice_t device, char *uuid, unsigned int size) {
    return text(device->uuid, uuid, size);
}

nvmlReturn_t nvmlDeviceGetMemoryInfo_v2(nvmlDevice_t device, nvmlMemory_v2_t *memory) {
    TELL(TOTAL, memory->total);
    TELL(USED, memory->used);
    TELL(RESERVED, memory->reserved);
    memory->free = memory->total - memory->used - memory->reserved;
    return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetUtilizationRates(nvmlDevice_t device, nvmlUtilization_t *utilization) {
    TELL(UTIL, utilization->gpu);
    utilization->memory = 0;
    return NVML_SUCCESS;
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
    if (type != NVML_CLOCK_SM) return NVML_ERROR_NOT_SUPPORTED;
    TELL(CLOCK, *mhz);
    return NVML_SUCCESS;
}
nvmlReturn_t nvmlDeviceGetTemperature(nvmlDevice_t device, nvmlTemperatureSensors_t sensor, unsigned int *celsius) {
    if (sensor != NVML_TEMPERATURE_GPU) return NVML_ERROR_INVALID_ARGUMENT;
    TELL(TEMPERATURE, *celsius);
    return NVML_SUCCESS;
}

/* Asked for by bench, and in no trace. */
#define ABSENT(name, ...) \
    nvmlReturn_t name(__VA_ARGS__) { return users ? NVML_ERROR_NOT_SUPPORTED : NVML_ERROR_UNINITIALIZED; }
ABSENT(nvmlDeviceGetPersistenceMode, nvmlDevice_t device, nvmlEnableState_t *mode)
ABSENT(nvmlDeviceGetTemperatureThreshold, nvmlDevice_t device, nvmlTemperatureThresholds_t type, unsigned int *celsius)
ABSENT(nvmlDeviceGetCurrentClocksThrottleReasons, nvmlDevice_t device, unsigned long long *reasons)
ABSENT(nvmlDeviceGetMigMode, nvmlDevice_t device, unsigned int *current, unsigned int *pending)
ABSENT(nvmlDeviceGetComputeRunningProcesses_v3, nvmlDevice_t device, unsigned int *count, nvmlProcessInfo_t *infos)
ABSENT(nvmlDeviceGetNumGpuCores, nvmlDevice_t device, unsigned int *cores)
ABSENT(nvmlDeviceGetMaxClockInfo, nvmlDevice_t device, nvmlClockType_t type, unsigned int *mhz)

nvmlReturn_t nvmlDeviceGetFieldValues(nvmlDevice_t device, int count, nvmlFieldValue_t *values) {
    if (!users) return NVML_ERROR_UNINITIALIZED;
    for (int i = 0; i < count; i++) values[i].nvmlReturn = NVML_ERROR_NOT_SUPPORTED;
    return device == &gpu ? NVML_SUCCESS : NVML_ERROR_INVALID_ARGUMENT;
}
