// The workloads of `distsim bench fabric` as a SimGrid S4U program.
//
//     bench ring|ps|aps|ftring|ftstride WORKERS [--cfg=...]
//
// Reads compute_WORKERS.f64 (10 x WORKERS doubles, row by row) from the current folder where workers compute; prints one line
// of JSON with the simulated seconds (`sim`), the CPU seconds and the peak memory. Hosts have a full-duplex link of 10 Gbit/s
// and 5 us; a message is 100 MB.
#include <simgrid/s4u.hpp>
#include <simgrid/version.h>
#if SIMGRID_VERSION < 40000
#include <simgrid/kernel/routing/NetPoint.hpp>
#endif
#include <sys/resource.h>

#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace s4u = simgrid::s4u;

namespace {

constexpr double kBandwidth = 1.25e9;
constexpr double kLatency = 5e-6;
constexpr double kBytes = 100e6;
constexpr int kRounds = 10;

struct Bench {
  int workers = 0;
  std::vector<s4u::Host*> hosts;
  std::vector<double> seconds;  // kRounds x workers

  double compute(int round, int worker) const { return seconds[static_cast<size_t>(round) * workers + worker]; }
};

// Releases before 4 have other names for the same.
#if SIMGRID_VERSION < 40000
void make_star(s4u::Engine&, Bench& bench, int count) {
  auto* zone = s4u::create_star_zone("star");
  for (int i = 0; i < count; i++) {
    auto* host = zone->create_host("host" + std::to_string(i), 1e9);
    auto* link = zone->create_split_duplex_link("link" + std::to_string(i), kBandwidth)->set_latency(kLatency);
    zone->add_route(host->get_netpoint(), nullptr, nullptr, nullptr, {{link, s4u::LinkInRoute::Direction::UP}}, true);
    bench.hosts.push_back(host);
  }
  zone->seal();
}

void make_fat_tree(s4u::Engine&, Bench& bench, unsigned leaf, unsigned leaves, unsigned uplinks) {
  auto add_host = [&bench](s4u::NetZone* zone, const std::vector<unsigned long>&, unsigned long id) {
    auto* host = zone->create_host("host" + std::to_string(id), 1e9);
    bench.hosts.push_back(host);
    return std::make_pair(host->get_netpoint(), static_cast<simgrid::kernel::routing::NetPoint*>(nullptr));
  };
  auto* zone = s4u::create_fatTree_zone("tree", nullptr, {2, {leaf, leaves}, {1, uplinks}, {1, 1}},
                                        s4u::ClusterCallbacks(add_host), kBandwidth, kLatency,
                                        s4u::Link::SharingPolicy::SPLITDUPLEX);
  zone->seal();
}

void start(s4u::Engine&, const std::string& name, s4u::Host* host, const std::function<void()>& program) {
  s4u::Actor::create(name, host, program);
}
#else
void make_star(s4u::Engine& engine, Bench& bench, int count) {
  auto* zone = engine.get_netzone_root()->add_netzone_star("star");
  for (int i = 0; i < count; i++) {
    auto* host = zone->add_host("host" + std::to_string(i), 1e9);
    auto* link = zone->add_split_duplex_link("link" + std::to_string(i), kBandwidth)->set_latency(kLatency);
    zone->add_route(host, nullptr, {{link, s4u::LinkInRoute::Direction::UP}}, true);
    bench.hosts.push_back(host);
  }
  zone->seal();
}

void make_fat_tree(s4u::Engine& engine, Bench& bench, unsigned leaf, unsigned leaves, unsigned uplinks) {
  auto* zone = engine.get_netzone_root()->add_netzone_fatTree("tree", 2, {leaf, leaves}, {1, uplinks}, {1, 1}, kBandwidth,
                                                              kLatency, s4u::Link::SharingPolicy::SPLITDUPLEX);
  std::function<s4u::Host*(s4u::NetZone*, const std::vector<unsigned long>&, unsigned long)> add_host =
      [&bench](s4u::NetZone* z, const std::vector<unsigned long>&, unsigned long id) {
        bench.hosts.push_back(z->add_host("host" + std::to_string(id), 1e9));
        return bench.hosts.back();
      };
  zone->set_host_cb(add_host);
  zone->seal();
}

void start(s4u::Engine&, const std::string& name, s4u::Host* host, const std::function<void()>& program) {
  host->add_actor(name, program);
}
#endif

// An all-reduce: 2(N-1) rounds, send to the next and receive from the one before posted together, both awaited.
void add_ring(s4u::Engine& engine, const Bench& bench, const std::vector<int>& placement) {
  const int n = bench.workers;
  const auto chunk = static_cast<uint64_t>(kBytes / n);
  for (int i = 0; i < n; i++) {
    auto* next = s4u::Mailbox::by_name(std::to_string((i + 1) % n));
    auto* own = s4u::Mailbox::by_name(std::to_string(i));
    start(engine, "worker" + std::to_string(i), bench.hosts[placement[i]], [n, chunk, next, own]() {
      static int token;
      for (int round = 0; round < 2 * (n - 1); round++) {
        void* got;
        auto sending = next->put_async(&token, chunk);
        auto receiving = own->get_async<void>(&got);
        sending->wait();
        receiving->wait();
      }
    });
  }
}

// Ten rounds: workers compute and push; the server waits for all pushes, then answers all at once.
void add_synchronous(s4u::Engine& engine, const Bench& bench) {
  const int n = bench.workers;
  std::vector<s4u::Mailbox*> pushes, pulls;
  for (int i = 0; i < n; i++) {
    pushes.push_back(s4u::Mailbox::by_name("push" + std::to_string(i)));
    pulls.push_back(s4u::Mailbox::by_name("pull" + std::to_string(i)));
  }
  start(engine, "server", bench.hosts[n], [n, pushes, pulls]() {
    static int token;
    std::vector<void*> got(n);
    for (int round = 0; round < kRounds; round++) {
      std::vector<s4u::CommPtr> all;
      for (int i = 0; i < n; i++) all.push_back(pushes[i]->get_async<void>(&got[i]));
      for (auto& each : all) each->wait();
      all.clear();
      for (int i = 0; i < n; i++) all.push_back(pulls[i]->put_async(&token, static_cast<uint64_t>(kBytes)));
      for (auto& each : all) each->wait();
    }
  });
  for (int i = 0; i < n; i++) {
    start(engine, "worker" + std::to_string(i), bench.hosts[i], [i, push = pushes[i], pull = pulls[i], &bench]() {
      static int token;
      for (int round = 0; round < kRounds; round++) {
        void* got;
        s4u::this_actor::sleep_for(bench.compute(round, i));
        push->put(&token, static_cast<uint64_t>(kBytes));
        pull->get_async<void>(&got)->wait();
      }
    });
  }
}

// Ten rounds of each worker on its own: compute, push, pull.
void add_asynchronous(s4u::Engine& engine, const Bench& bench) {
  auto* server = bench.hosts[bench.workers];
  for (int i = 0; i < bench.workers; i++) {
    start(engine, "worker" + std::to_string(i), bench.hosts[i], [i, server, &bench]() {
      for (int round = 0; round < kRounds; round++) {
        s4u::this_actor::sleep_for(bench.compute(round, i));
        s4u::Comm::sendto(bench.hosts[i], server, static_cast<uint64_t>(kBytes));
        s4u::Comm::sendto(server, bench.hosts[i], static_cast<uint64_t>(kBytes));
      }
    });
  }
}

bool read_seconds(Bench& bench) {
  bench.seconds.resize(static_cast<size_t>(kRounds) * bench.workers);
  std::ifstream file("compute_" + std::to_string(bench.workers) + ".f64", std::ios::binary);
  file.read(reinterpret_cast<char*>(bench.seconds.data()), static_cast<std::streamsize>(bench.seconds.size() * sizeof(double)));
  return static_cast<bool>(file);
}

}  // namespace

int main(int argc, char** argv) {
  s4u::Engine engine(&argc, argv);
  const std::string workload = argc > 1 ? argv[1] : "";
  Bench bench;
  bench.workers = argc > 2 ? std::atoi(argv[2]) : 0;
  const int n = bench.workers;
  const int leaf = n >= 64 ? 16 : 4;
  if (n < 2) {
    std::fprintf(stderr, "usage: bench ring|ps|aps|ftring|ftstride WORKERS [--cfg=...]\n");
    return 2;
  }
  std::vector<int> placement(n);
  for (int rank = 0; rank < n; rank++) placement[rank] = rank;
  if (workload == "ring") {
    make_star(engine, bench, n);
    add_ring(engine, bench, placement);
  } else if (workload == "ftring" || workload == "ftstride") {
    const int leaves = n / leaf;
    make_fat_tree(engine, bench, leaf, leaves, leaf / 4);
    if (workload == "ftstride")
      for (int rank = 0; rank < n; rank++) placement[rank] = rank % leaves * leaf + rank / leaves;
    add_ring(engine, bench, placement);
  } else if (workload == "ps" || workload == "aps") {
    make_star(engine, bench, n + 1);
    if (!read_seconds(bench)) {
      std::fprintf(stderr, "compute_%d.f64 is not here, or too short\n", n);
      return 1;
    }
    workload == "ps" ? add_synchronous(engine, bench) : add_asynchronous(engine, bench);
  } else {
    std::fprintf(stderr, "unknown workload %s\n", workload.c_str());
    return 2;
  }
  engine.run();
  rusage usage;
  getrusage(RUSAGE_SELF, &usage);
  const double cpu = usage.ru_utime.tv_sec + usage.ru_stime.tv_sec + (usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6;
  std::printf("{\"workload\": \"%s\", \"workers\": %d, \"sim\": %.9f, \"cpu\": %.3f, \"peak_mb\": %.1f}\n", workload.c_str(), n,
              s4u::Engine::get_clock(), cpu, usage.ru_maxrss / 1024.0);
  return 0;
}
