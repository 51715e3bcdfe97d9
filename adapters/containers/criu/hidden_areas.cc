#include "adapters/containers/criu/hidden_areas.hpp"
