// A driver and a compiler that only pretend, for tests of the host's side: what is asked of a stream is done as late as its
// order allows (with FAKE_EARLY what comes from the host as early), so that a missing wait gives wrong bytes. Declared as far as they are used, with the types of cuda.h and nvrtc.h.
//
// FAKE_VERSION (13000), FAKE_CARDS (1), FAKE_CAPABILITY (90), FAKE_ROOM (bytes of the card), FAKE_NVRTC (13), FAKE_LOG (a file
// that gets a line for each compilation). Its kernels: scale_fwd(float *y, const float *x, float factor, int n) over all threads,
// and fault(), after which everything fails.
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <functional>
#include <map>
#include <string>
#include <vector>

namespace {

enum { OK = 0, INVALID = 1, NO_ROOM = 2, NO_DEVICE = 100, NOT_READY = 600, ILLEGAL = 700, CAPTURING = 900 };

using u64 = unsigned long long;
struct Stream;
// One recording of an event: done when the stream has come so far.
struct Mark { Stream *stream; bool done; };
struct Event { Mark *last = nullptr; };
struct Work { std::function<void()> run; Mark *before = nullptr, *mark = nullptr; };
struct Stream { std::deque<Work> queue; };
struct Graph { std::vector<Work> works; };
struct Function { std::string name; int shared = 0; };

int sticky = OK;
Stream *capturing = nullptr;
Graph *graph = nullptr;
std::map<u64, size_t> memory;
std::map<char *, size_t> pinned;
size_t used = 0;

u64 setting(const char *name, u64 otherwise) { const char *text = getenv(name); return text ? strtoull(text, nullptr, 10) : otherwise; }

void log(const std::string &line) {
  if (const char *path = getenv("FAKE_LOG")) std::ofstream(path, std::ios::app) << line << "\n";
}

void step(Stream *s) {
  Work work = s->queue.front();
  s->queue.pop_front();
  while (work.before && !work.before->done) step(work.before->stream);
  if (work.run) work.run();
  if (work.mark) work.mark->done = true;
}

int drain(Stream *s) {
  while (!s->queue.empty()) step(s);
  return sticky;
}

int later(Stream *s, Work work) {
  if (sticky) return sticky;
  if (s == capturing) graph->works.push_back(work); else s->queue.push_back(work);
  return OK;
}

// Whole inside one allocation that is still there.
bool inside(u64 at, size_t bytes) {
  auto next = memory.upper_bound(at);
  if (next == memory.begin()) return false;
  --next;
  return at + bytes <= next->first + next->second;
}

}  // namespace

extern "C" {

int cuGetErrorString(int error, const char **text) {
  *text = error == NO_DEVICE ? "no CUDA-capable device is detected" : error == ILLEGAL ? "an illegal memory access was encountered" : "invalid argument";
  return OK;
}
int cuGetErrorName(int error, const char **text) {
  *text = error == NO_DEVICE ? "CUDA_ERROR_NO_DEVICE" : error == ILLEGAL ? "CUDA_ERROR_ILLEGAL_ADDRESS" : "CUDA_ERROR_INVALID_VALUE";
  return OK;
}
int cuDriverGetVersion(int *version) { *version = (int)setting("FAKE_VERSION", 13000); return OK; }
int cuInit(unsigned) { return setting("FAKE_CARDS", 1) ? OK : NO_DEVICE; }
int cuDeviceGetCount(int *count) { *count = (int)setting("FAKE_CARDS", 1); return OK; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return OK; }
int cuDeviceGetName(char *name, int size, int) { strncpy(name, "Fake H200", size); return OK; }
int cuDeviceTotalMem_v2(size_t *bytes, int) { *bytes = setting("FAKE_ROOM", 1ull << 30); return OK; }
int cuDeviceGetAttribute(int *value, int attribute, int) {
  int capability = (int)setting("FAKE_CAPABILITY", 90);
  *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : attribute == 97 ? 232448 : attribute == 16 ? 132 : 0;
  return OK;
}

static void *context = nullptr;
int cuDevicePrimaryCtxRetain(void **c, int) { *c = &memory; return OK; }
int cuDevicePrimaryCtxRelease_v2(int) { return OK; }
int cuCtxGetCurrent(void **c) { *c = context; return OK; }
int cuCtxSetCurrent(void *c) { context = c; return OK; }

int cuMemGetInfo_v2(size_t *left, size_t *all) { *all = setting("FAKE_ROOM", 1ull << 30), *left = *all - used; return OK; }
int cuMemAlloc_v2(u64 *address, size_t bytes) {
  if (sticky) return sticky;
  if (capturing) return CAPTURING;
  if (bytes == 0) return INVALID;
  if (used + bytes > setting("FAKE_ROOM", 1ull << 30)) return NO_ROOM;
  void *at = aligned_alloc(256, (bytes + 255) / 256 * 256);
  memset(at, 0xFF, bytes);
  *address = (u64)at, memory[(u64)at] = bytes, used += bytes;
  return OK;
}
int cuMemFree_v2(u64 address) {
  if (!memory.count(address)) return INVALID;
  used -= memory[address];
  memory.erase(address);  // never given back, so that its address is not used again
  return OK;
}
int cuMemHostAlloc(void **at, size_t bytes, unsigned) { *at = malloc(bytes), pinned[(char *)*at] = bytes; return OK; }
int cuMemFreeHost(void *at) { pinned.erase((char *)at); return OK; }
int cuMemcpyHtoDAsync_v2(u64 to, const void *from, size_t bytes, Stream *s) {
  if (!inside(to, bytes)) return INVALID;
  int result = later(s, {[=] { memcpy((void *)to, from, bytes); }});
  while (setting("FAKE_EARLY", 0) && !s->queue.empty() && (!s->queue.front().before || s->queue.front().before->done)) step(s);
  return result;
}
int cuMemcpyDtoDAsync_v2(u64 to, u64 from, size_t bytes, Stream *s) {
  if (!inside(to, bytes) || !inside(from, bytes)) return INVALID;
  return later(s, {[=] { memcpy((void *)to, (void *)from, bytes); }});
}
int cuMemcpyDtoHAsync_v2(void *to, u64 from, size_t bytes, Stream *s) {
  if (!inside(from, bytes)) return INVALID;
  return later(s, {[=] { memcpy(to, (void *)from, bytes); }});
}

int cuStreamCreate(Stream **s, unsigned) { *s = new Stream; return OK; }
int cuStreamDestroy_v2(Stream *s) { return drain(s); }
int cuStreamSynchronize(Stream *s) { return s == capturing ? CAPTURING : drain(s); }
int cuStreamWaitEvent(Stream *s, Event *e, unsigned) { return e->last ? later(s, {nullptr, e->last}) : OK; }
int cuEventCreate(Event **e, unsigned) { *e = new Event; return OK; }
int cuEventDestroy_v2(Event *) { return OK; }
int cuEventRecord(Event *e, Stream *s) { e->last = new Mark{s, false}; return later(s, {nullptr, nullptr, e->last}); }
int cuEventQuery(Event *e) { return sticky ? sticky : !e->last || e->last->done ? OK : NOT_READY; }
int cuEventSynchronize(Event *e) {
  while (e->last && !e->last->done) step(e->last->stream);
  return sticky;
}
int cuEventElapsedTime(float *ms, Event *, Event *) { *ms = 2.5f; return OK; }

int cuStreamBeginCapture_v2(Stream *s, int) { capturing = s, graph = new Graph; return OK; }
int cuStreamEndCapture(Stream *, Graph **g) { capturing = nullptr, *g = graph; return OK; }
int cuGraphInstantiateWithFlags(Graph **exec, Graph *g, u64) { *exec = new Graph(*g); return OK; }
int cuGraphUpload(Graph *, Stream *) { return OK; }
int cuGraphLaunch(Graph *g, Stream *s) {
  for (Work &work : g->works) s->queue.push_back(work);
  return sticky;
}
int cuGraphExecDestroy(Graph *) { return OK; }
int cuGraphDestroy(Graph *) { return OK; }

int cuModuleLoadData(void **module, const void *image) { *module = context; return strncmp((const char *)image, "IMAGE", 5) ? INVALID : OK; }
int cuModuleUnload(void *) { return OK; }
int cuModuleGetFunction(Function **f, void *, const char *name) { *f = new Function{name}; return OK; }
int cuFuncGetAttribute(int *value, int, Function *) { *value = 1024; return OK; }
int cuFuncSetAttribute(Function *f, int, int value) { f->shared = value; return OK; }
int cuLaunchKernel(Function *f, unsigned gx, unsigned, unsigned, unsigned bx, unsigned, unsigned, unsigned shared, Stream *s, void **p, void **) {
  if (shared > (unsigned)f->shared) return INVALID;
  if (f->name == "fault") return later(s, {[] { sticky = ILLEGAL; }});
  float *y = *(float **)p[0], *x = *(float **)p[1], factor = *(float *)p[2];
  int n = *(int *)p[3];
  return later(s, {[=] { for (unsigned i = 0; i < gx * bx; i++) y[i] = x[i] * factor + n; }});
}

// The compiler: what it makes names what it was told. A text with "#error" does not compile.
struct Program { std::string text, image, said; };
const char *nvrtcGetErrorString(int) { return "NVRTC_ERROR_COMPILATION"; }
int nvrtcVersion(int *major, int *minor) { *major = (int)setting("FAKE_NVRTC", 13), *minor = 0; return OK; }
int nvrtcGetNumSupportedArchs(int *count) { *count = 2; return OK; }
int nvrtcGetSupportedArchs(int *list) { list[0] = 80, list[1] = 90; return OK; }
int nvrtcCreateProgram(Program **p, const char *text, const char *name, int count, const char *const *, const char *const *names) {
  *p = new Program{text, "IMAGE", std::string("compiled ") + name};
  for (int i = 0; i < count; i++) (*p)->said += std::string(" with ") + names[i];
  return OK;
}
int nvrtcDestroyProgram(Program **p) { delete *p; return OK; }
int nvrtcCompileProgram(Program *p, int count, const char *const *options) {
  for (int i = 0; i < count; i++) p->said += std::string(" ") + options[i];
  if (p->text.find("#error") != std::string::npos) return p->said = "planted.cu(1): error: as the text says", 6;
  return log(p->said), OK;
}
int nvrtcGetProgramLogSize(Program *p, size_t *size) { *size = p->said.size() + 1; return OK; }
int nvrtcGetProgramLog(Program *p, char *to) { strcpy(to, p->said.c_str()); return OK; }
int nvrtcGetCUBINSize(Program *p, size_t *size) { *size = p->image.size(); return OK; }
int nvrtcGetCUBIN(Program *p, char *to) { memcpy(to, p->image.data(), p->image.size()); return OK; }
int nvrtcGetPTXSize(Program *p, size_t *size) { *size = p->image.size() + 1; return OK; }
int nvrtcGetPTX(Program *p, char *to) { strcpy(to, p->image.c_str()); return OK; }

}  // extern "C"
