// What makes tiny_vmm's guests migratable: with migration.cc, all that it took.
#pragma once

#include <future>
#include <memory>
#include <migrate/kvm.hpp>
#include <migrate/migration.hpp>
#include <migrate/tls.hpp>
#include <mutex>
#include <string>

#include "vmm.hpp"

namespace tiny {

using namespace migrate;  // NOLINT: these two files are where both meet.

/// A guest that can leave. Made before it runs.
class MovableGuest final : private KvmSourceHooks, private Observer {
 public:
  explicit MovableGuest(std::unique_ptr<Vmm> vmm);
  ~MovableGuest() override { vmm_->pause(); }  // Nobody writes guest memory while this goes.
  [[nodiscard]] Vmm& vmm() const { return *vmm_; }
  [[nodiscard]] KvmVm kvm_vm() const;

  /// The whole migration, on the calling thread. Nobody else stops the guest or lets it run on.
  Outcome send(const std::string& target, const TlsOptions& tls, const OutgoingOptions& options);
  /// Gives a migration up; false when it is too late. Any thread.
  bool cancel();
  /// After Outcome::kUncertain: lets the guest run on here, or gives it up.
  Status resolve(bool resume, bool force);

 private:
  std::string name() override { return "tiny"; }
  Result<std::vector<GuestDescription::Property>> properties() override;
  RunState run_state() override;
  Result<PauseResult> pause() override;
  Status resume() override;
  Status save_devices(StateWriter& writer) override;
  Status throttle(std::uint32_t vcpu, double share) override;
  Status relinquish() override { return {}; }  // No disk: nothing that only one host may hold.
  Status reclaim() override { return {}; }
  Status release() override { return {}; }  // It stands for ever, and main() ends the process.
  Status first_pages(PageBitmap&) override { return {}; }
  PacketSource* waiting_packets() override { return nullptr; }  // It has no network card.
  void note(std::string_view text) override;
  void on_progress(const Progress& progress) override;
  void on_event(const Event& event) override;

  const std::unique_ptr<Vmm> vmm_;
  std::shared_ptr<SoftwareBitmap> device_writes_;
  std::unique_ptr<Connector> connector_;
  std::mutex mutex_;
  std::unique_ptr<Outgoing> outgoing_;  // Guarded by mutex_; there while send() works.
  OutgoingResult uncertain_;            // Kept with all that resolving needs.
};

/// Takes one guest. Kept for as long as that runs: it is the proof that the guest's process lives.
class Arrival final : private KvmTargetHooks, private Incoming::Host {
 public:
  explicit Arrival(const std::string& runtime_dir);
  /// The guest, as soon as it has started; nullptr when none did. To be called once.
  std::future<std::shared_ptr<MovableGuest>> guest() { return started_.get_future(); }
  /// The whole migration, on the calling thread. Goes on until the source knows how it ended.
  void receive(const std::string& address, const TlsOptions& tls);

 private:
  Result<KvmVm> build(const GuestDescription& description, const KvmMachine& machine) override;
  Status load_device(const SectionInfo& section, StateReader& reader) override;
  Status acquire() override { return {}; }
  Status yield() override { return {}; }
  Status start(RunState state) override;
  void discard() override { guest_.reset(); }
  std::vector<int> vcpu_threads() override { return {}; }
  PacketSink* packet_sink() override { return nullptr; }
  void note(std::string_view text) override;
  Status on_described(const GuestDescription&) override { return {}; }
  Status on_ready() override { return {}; }
  void on_started() override { started_.set_value(guest_); }
  void on_memory(Memory, const std::string&) override {}

  const Handle kvm_;
  std::shared_ptr<MovableGuest> guest_;
  std::promise<std::shared_ptr<MovableGuest>> started_;
  Incoming incoming_;
};

}  // namespace tiny
